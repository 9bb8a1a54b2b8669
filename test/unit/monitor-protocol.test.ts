import { expect, test } from "bun:test";
import { CribError } from "../../src/error.ts";
import { FRAME_LIMIT_BYTES, type Frame, FrameParser } from "../../src/monitor/frame.ts";
import {
  Answer,
  decodeCreate,
  decodeError,
  decodeExec,
  decodeHello,
  decodeRecord,
  encodeCreate,
  encodeEmpty,
  encodeExec,
  encodeHello,
  encodeKill,
  Request,
} from "../../src/monitor/protocol.ts";
import type { CreateRequest } from "../../src/monitor/types.ts";

const create: CreateRequest = {
  id: "c1",
  argv: ["/usr/sbin/runc", "create", "c1"],
  env: ["PATH=/bin", "ÜML=ä"],
  cwd: "/",
  logPath: "",
  logBytesPerSecond: 0x01020304,
  stdin: true,
  stdinOnce: false,
  pidFile: "/p",
  oomFile: "/o",
  deadlineMs: 1000,
};

function parse(...chunks: Uint8Array[]): Frame[] {
  const frames: Frame[] = [];
  const parser = new FrameParser((frame) =>
    frames.push({ ...frame, payload: frame.payload.slice() }),
  );
  for (const chunk of chunks) parser.push(chunk);
  return frames;
}

/** Fields as the monitor writes them. */
class Payload {
  private readonly bytes: number[] = [];
  u16(value: number): this {
    this.bytes.push(value & 255, value >> 8);
    return this;
  }
  u32(value: number): this {
    return this.u16(value & 0xffff).u16(value >>> 16);
  }
  u64(value: bigint): this {
    return this.u32(Number(value & 0xffffffffn)).u32(Number(value >> 32n));
  }
  string(value: string): this {
    const bytes = new TextEncoder().encode(value);
    this.u32(bytes.length).bytes.push(...bytes, 0);
    return this;
  }
  done(): Uint8Array {
    return new Uint8Array(this.bytes);
  }
}

/** A generator whose numbers are the same in every run. */
function* random(seed: number): Generator<number, never> {
  for (let state = seed; ; ) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    yield state >>> 0;
  }
}

test("a request's bytes are those that the header documents", () => {
  expect(Buffer.from(encodeKill(7, "ab", 9)).toString("hex")).toBe(
    // length 11, type 4, zero, request 7 | "ab" with its length and NUL | 9
    "0b00000004000000070000000200000061620009000000",
  );
  expect(Buffer.from(encodeHello(1)).toString("hex")).toBe("060000000100000001000000435249420200");
});

test("frames come out whole and in order however the stream is cut", () => {
  const sent = [
    encodeHello(1),
    encodeCreate(2, create, 500),
    encodeEmpty(3, Request.list),
    encodeKill(4, "c1", 15),
  ];
  const stream = Buffer.concat(sent);
  const whole = parse(stream);
  expect(whole.map(({ type, request }) => [type, request])).toEqual([
    [1, 1],
    [2, 2],
    [6, 3],
    [4, 4],
  ]);
  for (let cut = 1; cut < stream.length; cut++) {
    expect(parse(stream.subarray(0, cut), stream.subarray(cut))).toEqual(whole);
  }
  expect(parse(...Array.from(stream, (byte) => new Uint8Array([byte])))).toEqual(whole);
});

test("a frame that is none throws DataLoss instead of waiting for it", () => {
  const tooLong = new Uint8Array(12);
  new DataView(tooLong.buffer).setUint32(0, FRAME_LIMIT_BYTES + 1, true);
  expect(() => parse(tooLong)).toThrow(`a frame of ${FRAME_LIMIT_BYTES + 1} bytes`);
  const unknownBits = new Uint8Array(12);
  unknownBits[6] = 1;
  expect(() => parse(unknownBits)).toThrow("unknown header bits");
});

test("arbitrary bytes either parse or throw DataLoss, in frames and in every payload", () => {
  const numbers = random(42);
  const attempts = [decodeHello, decodeCreate, decodeExec, decodeRecord, decodeError];
  let parsed = 0;
  let refused = 0;
  for (let round = 0; round < 20_000; round++) {
    const bytes = new Uint8Array(numbers.next().value % 120);
    for (let i = 0; i < bytes.length; i++) {
      const value = numbers.next().value;
      bytes[i] = value % 3 === 0 ? value >>> 8 : 0;
    }
    const tries: Array<() => unknown> = [() => parse(bytes)];
    for (const decode of attempts) tries.push(() => decode(bytes));
    for (const attempt of tries) {
      try {
        attempt();
        parsed++;
      } catch (error) {
        if (!(error instanceof CribError) || error.code !== "DataLoss") throw error;
        refused++;
      }
    }
  }
  expect(parsed).toBeGreaterThan(1000);
  expect(refused).toBeGreaterThan(1000);
});

test("a message that was cut inside a character is still told", () => {
  const cut = new Payload().u32(6).string("path ü").done();
  cut.set([0], cut.length - 2); // the character's second byte
  new DataView(cut.buffer).setUint32(4, 6, true);
  const error = decodeError(cut.subarray(0, cut.length - 1));
  expect([error.code, error.message]).toEqual(["Internal", "pod monitor: path \ufffd"]);
});

test("what the monitor sends is read field by field, and later fields are ignored", () => {
  const hello = new Payload().u16(1).u16(0).u32(10).u32(0).string("pod").string("from the future");
  expect(decodeHello(hello.done())).toEqual({
    version: 1,
    pid: 10,
    pausePid: undefined,
    podId: "pod",
  });
  expect(decodeCreate(new Payload().u32(1).u32(0).string("why").done())).toEqual({
    exitStatus: 1,
    pid: 0,
    startError: "why",
  });
  expect(decodeCreate(new Payload().u32(0).u32(5).string("").done())).toEqual({
    exitStatus: 0,
    pid: 5,
  });
  expect(decodeExec(new Payload().u32(137).u32(9).u32(1).done())).toEqual({
    exitCode: 137,
    signal: 9,
    timedOut: true,
    runtimeFailed: false,
  });
  expect(decodeError(new Payload().u32(2).string("no such").done())).toMatchObject({
    code: "NotFound",
    message: "pod monitor: no such",
  });
  expect(decodeError(new Payload().u32(99).string("?").done()).code).toBe("Internal");
});

test("a container record has an exit only when it has exited", () => {
  const record = (state: number) =>
    decodeRecord(
      new Payload()
        .string("c1")
        .u32(7)
        .u32(state)
        .u32(1)
        .u32(0)
        .u32(1)
        .u64(1762000000123456789n)
        .u64(3n)
        .done(),
    );
  for (const state of [0, 1, 2]) {
    expect(record(state)).toEqual({ id: "c1", pid: 7, droppedLogBytes: 3n });
  }
  expect(record(3)).toEqual({
    id: "c1",
    pid: 7,
    droppedLogBytes: 3n,
    exit: {
      id: "c1",
      exitCode: 1,
      signal: 0,
      oomKilled: true,
      finishedAtNs: 1762000000123456789n,
      droppedLogBytes: 3n,
    },
  });
});

test("what cannot be sent is refused and named", () => {
  const exec = {
    id: "c1",
    argv: ["/bin/true"],
    env: [],
    cwd: "/",
    pidFile: "/p",
    timeoutMs: 0,
    drainMs: 0,
  };
  expect(() => encodeExec(1, { ...exec, argv: ["a\0b"] })).toThrow("argv holds a NUL byte");
  expect(() => encodeExec(1, { ...exec, timeoutMs: -1 })).toThrow("timeoutMs -1 is no u32");
  expect(() => encodeExec(1, { ...exec, timeoutMs: 1.5 })).toThrow("timeoutMs 1.5 is no u32");
  expect(() => encodeExec(1, { ...exec, env: ["x".repeat(FRAME_LIMIT_BYTES)] })).toThrow(
    `at most ${FRAME_LIMIT_BYTES} are possible`,
  );
  expect(parse(encodeExec(1, exec))[0]?.type).toBe(Request.exec);
  expect(Answer.reply & Request.exec).toBe(0);
});
