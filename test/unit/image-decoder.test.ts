import { expect, test } from "bun:test";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { createDecoder, detectCompression } from "../../src/image/decoder.ts";

const DATA = Buffer.alloc(600_000);
for (let index = 0; index < DATA.length; index++) DATA[index] = (index * index) >> 7;

function decode(input: Buffer, step: number): Buffer {
  const pieces: Buffer[] = [];
  const decoder = createDecoder((chunk) => pieces.push(Buffer.from(chunk)));
  // As the child does: one buffer for all reads.
  const lent = Buffer.alloc(step);
  for (let offset = 0; offset < input.length; offset += step) {
    const count = input.copy(lent, 0, offset, offset + step);
    decoder.write(lent.subarray(0, count));
  }
  decoder.end();
  return Buffer.concat(pieces);
}

const forms: Array<[string, (data: Buffer) => Buffer]> = [
  ["gzip", (data) => gzipSync(data)],
  ["zstd", (data) => zstdCompressSync(data)],
];

test.each([1, 3, 4096, 1_000_000])("plain bytes pass, fed by %d", (step) => {
  expect(decode(DATA.subarray(0, 20_000), step)).toEqual(DATA.subarray(0, 20_000));
});

test("fewer bytes than a magic number pass", () => {
  expect(decode(Buffer.from("ab"), 1).toString()).toBe("ab");
  expect(decode(Buffer.alloc(0), 1)).toHaveLength(0);
});

for (const [name, compress] of forms) {
  test.each([1, 7, 65_536, 1_000_000])(`${name} is decoded, fed by %d`, (step) => {
    expect(decode(compress(DATA), step).equals(DATA)).toBe(true);
  });

  test.each([1, 7, 65_536, 1_000_000])(`all members of ${name} are decoded, fed by %d`, (step) => {
    const parts = [
      DATA.subarray(0, 100),
      Buffer.alloc(0),
      DATA.subarray(100, 300_000),
      DATA.subarray(300_000),
    ];
    expect(decode(Buffer.concat(parts.map(compress)), step).equals(DATA)).toBe(true);
  });

  test(`a flipped byte in ${name} is noticed`, () => {
    const bad = compress(DATA);
    const index = bad.length - 6;
    bad[index] = (bad[index] ?? 0) ^ 1;
    expect(() => decode(bad, 4096)).toThrow(name);
  });

  test(`bytes after the end of ${name} are an error`, () => {
    expect(() => decode(Buffer.concat([compress(DATA), Buffer.from("hello world")]), 4096)).toThrow(
      name,
    );
  });
}

test.each([1, 5, 18, 65_536])("a cut off gzip member is an error, fed by %d", (step) => {
  const whole = gzipSync(DATA);
  for (const cut of [1, 5, 9, whole.length - 12]) {
    expect(() => decode(whole.subarray(0, whole.length - cut), step)).toThrow("gzip");
  }
});

test.each([1, 7, 65_536])(
  "padding of zeros after gzip is left out, other padding is not, fed by %d",
  (step) => {
    const padded = Buffer.concat([gzipSync(DATA), Buffer.alloc(1000)]);
    expect(decode(padded, step).equals(DATA)).toBe(true);
    expect(() => decode(Buffer.concat([padded, Buffer.from("x")]), step)).toThrow("follow the end");
  },
);

test("a skippable zstd frame is skipped", () => {
  const skippable = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4]);
  const input = Buffer.concat([skippable, zstdCompressSync(DATA), skippable]);
  expect(decode(input, 100).equals(DATA)).toBe(true);
});

test("a bomb comes out in pieces of bounded size", () => {
  let largest = 0;
  let total = 0;
  const decoder = createDecoder((chunk) => {
    largest = Math.max(largest, chunk.length);
    total += chunk.length;
  });
  decoder.write(gzipSync(Buffer.alloc(50_000_000)));
  decoder.end();
  expect(total).toBe(50_000_000);
  expect(largest).toBeLessThanOrEqual(256 * 1024);
});

test("compression is told by the first bytes", () => {
  expect(detectCompression(Buffer.from([0x1f, 0x8b, 8, 0]))).toBe("gzip");
  expect(detectCompression(Buffer.from([0x28, 0xb5, 0x2f, 0xfd]))).toBe("zstd");
  expect(detectCompression(Buffer.from("./.."))).toBe("none");
  expect(detectCompression(Buffer.alloc(0))).toBe("none");
});
