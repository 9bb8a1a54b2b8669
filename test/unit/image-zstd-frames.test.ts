import { expect, test } from "bun:test";
import { constants, zstdCompressSync } from "node:zlib";
import { ZstdFrames } from "../../src/image/zstd-frames.ts";

const KIB = 1024;
/** Longer than the largest window that is used, so that none becomes a single segment. */
const DATA = Buffer.alloc(600 * KIB);
for (let index = 0; index < DATA.length; index++) DATA[index] = (index * index) >> 7;

function frame(windowLog: number, data = DATA, params: Record<number, number> = {}): Buffer {
  return zstdCompressSync(data, { params: { [constants.ZSTD_c_windowLog]: windowLog, ...params } });
}

/** The windows, in order, of a stream fed by `step` bytes. */
function windows(stream: Buffer, step: number): number[] {
  const frames = new ZstdFrames();
  const seen: number[] = [];
  for (let offset = 0; offset < stream.length; offset += step) {
    const window = frames.push(stream.subarray(offset, offset + step));
    if (window > 0) seen.push(window);
  }
  return seen;
}

/** A skippable frame (RFC 8878, section 3.1.2) in which a frame seems to begin. */
function skippable(low: number): Buffer {
  const content = Buffer.from("28b52ffd00ff28b52ffd", "hex");
  const header = Buffer.alloc(8);
  header.writeUInt32LE(0x184d2a50 + low, 0);
  header.writeUInt32LE(content.length, 4);
  return Buffer.concat([header, content]);
}

test.each([1, 2, 3, 5, 7])("each frame's window is seen, fed by %d", (step) => {
  const checksum = { [constants.ZSTD_c_checksumFlag]: 1 };
  const stream = Buffer.concat([
    skippable(0),
    frame(10),
    frame(12, DATA, checksum),
    skippable(15),
    frame(19),
    // Of one byte, repeated: blocks that are shorter than they say.
    frame(17, Buffer.alloc(600 * KIB, 7)),
    frame(10, Buffer.alloc(0)),
    frame(11),
  ]);
  const expected = [1, 4, 512, 128, 2].map((kib) => kib * KIB);
  expect(windows(stream, step).filter((window) => window > 1)).toEqual(expected);
});

test("the largest of several in one piece counts", () => {
  const stream = Buffer.concat([frame(10), frame(19), frame(12)]);
  expect(windows(stream, stream.length)).toEqual([512 * KIB]);
});

test.each([1, 255, 256, 60_000, 70_000])(
  "a frame of one segment has a window of its %d bytes",
  (size) => {
    const stream = frame(27, DATA.subarray(0, size));
    expect(windows(stream, 1)).toEqual([size]);
  },
);

test("a window's mantissa counts, and sizes of eight bytes do", () => {
  const header = (...bytes: number[]) => Buffer.from([0x28, 0xb5, 0x2f, 0xfd, ...bytes]);
  expect(windows(header(0x00, (15 << 3) | 3), 1)).toEqual([2 ** 25 + (2 ** 25 / 8) * 3]);
  expect(windows(header(0x00, 0xff), 1)).toEqual([2 ** 41 + (2 ** 41 / 8) * 7]);
  expect(windows(header(0xe0, 0, 0, 0, 0, 1, 0, 0, 0), 1)).toEqual([2 ** 32]);
  // With a dictionary's number before the size.
  expect(windows(header(0xa3, 9, 9, 9, 9, 0, 1, 0, 0), 1)).toEqual([256]);
});

test("bytes that are no zstd have no window", () => {
  const zstd = frame(19);
  for (const before of ["x", "not zstd", "\x1f\x8b\x08\x00"]) {
    expect(windows(Buffer.concat([Buffer.from(before), zstd]), 7)).toEqual([]);
  }
  const reserved = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 0x48, 0x07, 0, 0]);
  expect(windows(Buffer.concat([reserved, zstd]), 1)).toEqual([512 * KIB]);
});
