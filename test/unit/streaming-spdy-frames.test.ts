import { expect, test } from "bun:test";
import { CribError } from "../../src/error.ts";
import {
  dataHeader,
  FrameParser,
  goAway,
  ping,
  ResetStatus,
  rstStream,
  synReply,
} from "../../src/streaming/spdy-frames.ts";
import {
  DICTIONARY_ADLER32,
  HeaderReader,
  spdyDictionary,
} from "../../src/streaming/spdy-headers.ts";
import { FUZZ_MS, randomOf } from "../fixtures/fuzz.ts";
import { controlFrame, HeaderWriter, plainBlock, synStream, u32 } from "../fixtures/spdy-client.ts";

/** Written by github.com/moby/spdystream v0.5.1: five SYN_STREAMs, then one frame of each other type. */
const RECORDED = Buffer.from(
  "80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a68000000" +
    "00ffff800300010000001700000003000000000000c22e555c92929907000000ffff800300010000001900000005" +
    "000000000000c22ac5565c92925f5a02000000ffff800300010000001500000007000000000000c229975a540400" +
    "0000ffff800300010000001800000009000000000000c22e57945a9c59950a000000ffff80030008000000130000" +
    "000382ca3182b21873124332000000ffff000000030000000568656c6c6f00000003010000008003000600000004" +
    "00000001800300040000000c00000001000000040000006480030009000000080000000300000005800300030000" +
    "0008000000090000000580030007000000080000000000000000",
  "hex",
);

/** What the parser tells, header blocks read, data as text. */
function parse(bytes: Buffer, step = bytes.length): unknown[] {
  const seen: unknown[] = [];
  const headers = new HeaderReader();
  const parser = new FrameParser({
    control: (frame) =>
      seen.push(
        "block" in frame
          ? [frame.type, frame.streamId, Object.fromEntries(headers.read(frame.block))]
          : frame,
      ),
    data: (streamId, piece, fin) => seen.push([streamId, piece.toString(), fin]),
  });
  for (let at = 0; at < bytes.length; at += step) parser.push(bytes.subarray(at, at + step));
  return seen;
}

function errorOf(bytes: Buffer): string {
  try {
    parse(bytes);
  } catch (error) {
    if (error instanceof CribError) return error.message;
    throw error;
  }
  throw new Error("no error");
}

/** RFC 1950, section 8.2. */
function adler32(bytes: Buffer): number {
  let [low, high] = [1, 0];
  for (const byte of bytes) {
    low = (low + byte) % 65_521;
    high = (high + low) % 65_521;
  }
  return high * 65_536 + low;
}

test("the dictionary is the protocol's", () => {
  expect(spdyDictionary().length).toBe(1423);
  expect(adler32(spdyDictionary())).toBe(DICTIONARY_ADLER32);
});

test("what Go's client writes is read", () => {
  expect(parse(RECORDED)).toEqual([
    ["synStream", 1, { streamtype: "error" }],
    ["synStream", 3, { streamtype: "stdin" }],
    ["synStream", 5, { streamtype: "stdout" }],
    ["synStream", 7, { streamtype: "stderr" }],
    ["synStream", 9, { streamtype: "resize" }],
    ["headers", 3, { a: "b\0c" }],
    [3, "hello", false],
    [3, "", true],
    { type: "ping", id: 1 },
    { type: "rstStream", streamId: 9 },
    { type: "goAway" },
  ]);
});

test.each([1, 2, 3, 7, 8, 9, 64])("frames are the same when %d bytes come at a time", (step) => {
  const data = (frames: unknown[]) =>
    frames.filter((it) => Array.isArray(it) && it[0] === 3).map((it) => (it as string[])[1]);
  const control = (frames: unknown[]) => frames.filter((it) => !Array.isArray(it) || it[0] !== 3);
  const [whole, cut] = [parse(RECORDED), parse(RECORDED, step)];
  expect(control(cut)).toEqual(control(whole));
  expect(data(cut).join("")).toBe("hello");
  expect(cut.filter((it) => Array.isArray(it) && it[2] === true)).toHaveLength(1);
});

test("frames are written as Go's library writes them", () => {
  const written = [
    ping(1),
    rstStream(9, ResetStatus.cancel),
    goAway(0, false),
    dataHeader(3, 5, false),
  ];
  for (const frame of written) expect(RECORDED.includes(frame)).toBe(true);
  expect(dataHeader(3, 0, true)).toEqual(Buffer.from("0000000301000000", "hex"));
  const headers = new HeaderReader();
  expect(headers.read(synReply(1, true).subarray(12)).size).toBe(0);
  expect(headers.read(synReply(3, false).subarray(12)).size).toBe(0);
});

test("what is not SPDY/3.1 is an error that says why", () => {
  const block = new HeaderWriter().write({ a: "b" });
  expect(errorOf(Buffer.concat([u32(0x80020001), u32(0)]))).toContain("version 2, not 3");
  expect(errorOf(Buffer.concat([u32(0), u32(0)]))).toContain("stream 0");
  expect(errorOf(synStream(0, block))).toContain("stream 0");
  expect(errorOf(Buffer.concat([u32(0x80030001), u32(0xffffff)]))).toContain("16777215 bytes");
  for (const type of [1, 2, 3, 4, 6, 7, 8, 9]) {
    expect(errorOf(controlFrame(type, 0, Buffer.alloc(3)))).toContain("3 bytes");
  }
});

test("frames of unknown types are passed over", () => {
  expect(parse(Buffer.concat([controlFrame(10, 0, Buffer.alloc(100)), ping(7)]))).toEqual([
    { type: "ping", id: 7 },
  ]);
});

test("many header blocks of one connection are read with their common history", () => {
  const writer = new HeaderWriter();
  const reader = new HeaderReader();
  for (let id = 0; id < 2000; id += 1) {
    const headers = { streamtype: "data", port: "8080", requestid: String(id), x: "y".repeat(id) };
    expect(Object.fromEntries(reader.read(writer.write(headers)))).toEqual(headers);
  }
});

test("header blocks that are malformed, or inflate to too much, are errors", () => {
  const fails = (block: Buffer) => {
    expect(() => new HeaderReader().read(block)).toThrow(CribError);
  };
  const compressed = (plain: Buffer) => new HeaderWriter().compress(plain);
  fails(Buffer.alloc(0));
  fails(Buffer.alloc(40));
  fails(new HeaderWriter().write({ a: "b" }).subarray(0, -1));
  fails(new HeaderWriter().write({ a: "x".repeat(70_000) }));
  fails(new HeaderWriter().write({ A: "b" }));
  fails(new HeaderWriter().write({ "": "b" }));
  fails(
    compressed(
      plainBlock([
        ["a", "b"],
        ["a", "c"],
      ]),
    ),
  );
  fails(compressed(u32(1)));
  fails(compressed(u32(0xffffffff)));
  fails(compressed(Buffer.concat([u32(1), u32(0xffffffff)])));
  fails(compressed(Buffer.concat([u32(0), u32(0)])));
  const second = new HeaderWriter();
  second.write({ a: "b" });
  fails(second.write({ a: "b" }));
});

test("damaged frames never do more than raise the one error", () => {
  const random = randomOf(7);
  const writer = new HeaderWriter();
  const seeds = [RECORDED, synStream(1, writer.write({ streamtype: "error" }))];
  const end = performance.now() + FUZZ_MS;
  let errors = 0;
  for (let round = 0; performance.now() < end || round < 100; round += 1) {
    const bytes = Buffer.from(seeds[random(seeds.length)] ?? RECORDED);
    for (let left = 1 + random(4); left > 0; left -= 1) bytes[random(bytes.length)] = random(256);
    const cut = bytes.subarray(0, 1 + random(bytes.length));
    try {
      parse(cut, 1 + random(cut.length));
    } catch (error) {
      if (!(error instanceof CribError)) throw error;
      errors += 1;
    }
  }
  expect(errors).toBeGreaterThan(0);
});
