import { afterAll, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { crcWithZeros } from "../../src/image/crc-zeros.ts";
import { type TarEntry, TarParser } from "../../src/image/tar.ts";
import { TarError } from "../../src/image/tar-error.ts";
import { resum, type TarSpec, tarball } from "../fixtures/tar.ts";

const tree = mkdtempSync(join(tmpdir(), "crib-sparse-"));
afterAll(() => rmSync(tree, { recursive: true }));

interface Read {
  entry: TarEntry;
  /** Bytes, or the length of a hole. */
  parts: Array<Buffer | number>;
}

function parse(archive: Buffer, step = archive.length): Read[] {
  const read: Read[] = [];
  const parser = new TarParser({
    entry: (entry) => read.push({ entry, parts: [] }),
    data: (chunk) => read.at(-1)?.parts.push(Buffer.from(chunk)),
    hole: (bytes) => read.at(-1)?.parts.push(bytes),
    end: () => {},
  });
  for (let at = 0; at < archive.length; at += step) parser.push(archive.subarray(at, at + step));
  parser.finish();
  return read;
}

const contentOf = (file: Read | undefined) =>
  Buffer.concat(
    (file?.parts ?? []).map((part) => (typeof part === "number" ? Buffer.alloc(part) : part)),
  );
const holesOf = (file: Read | undefined) =>
  (file?.parts ?? []).filter((part) => typeof part === "number").length;

/** A file of `size` bytes with a letter in front of each of the offsets. */
function makeSparse(name: string, size: number, offsets: readonly number[]): Buffer {
  const content = Buffer.alloc(size);
  const fd = openSync(join(tree, name), "w");
  ftruncateSync(fd, size);
  for (const offset of offsets) {
    content.write("data", offset);
    writeSync(fd, "data", offset);
  }
  closeSync(fd);
  return content;
}

const FORMATS = [
  ["the old format", ["--format=gnu"]],
  ["PAX 0.0", ["--format=pax", "--sparse-version=0.0"]],
  ["PAX 0.1", ["--format=pax", "--sparse-version=0.1"]],
  ["PAX 1.0", ["--format=pax", "--sparse-version=1.0"]],
] as const;

for (const [format, flags] of FORMATS) {
  test.each([1, 511, 512, 65_536])(
    `GNU tar's sparse files of ${format} are read, fed by %d bytes`,
    (step) => {
      const many = Array.from({ length: 60 }, (_, index) => index * 16_384);
      const files: Array<[string, Buffer]> = [
        ["few", makeSparse("few", 100_000, [0, 50_000])],
        ["hole-first-and-last", makeSparse("hole-first-and-last", 300_000, [200_000])],
        ["many", makeSparse("many", 60 * 16_384, many)],
        ["nothing", makeSparse("nothing", 50_000, [])],
        ["plain", makeSparse("plain", 4, [0])],
      ];
      const archive = execFileSync(
        "tar",
        ["-c", "-S", ...flags, "-C", tree, ...files.map(([name]) => name)],
        { maxBuffer: 1e8 },
      );
      const read = parse(archive, step);
      expect(read.map(({ entry }) => entry.name.toString())).toEqual(files.map(([name]) => name));
      for (const [index, [name, content]] of files.entries()) {
        expect(read[index]?.entry).toMatchObject({ type: "file", size: content.length });
        expect(contentOf(read[index]).equals(content)).toBe(true);
        if (name !== "plain") expect(holesOf(read[index])).toBeGreaterThan(0);
      }
    },
  );
}

/** As GNU tar writes it, but whatever is asked for. */
function pax(records: Record<string, string>, data = ""): Buffer {
  const named = Object.entries(records).map(([key, value]) => [`GNU.sparse.${key}`, value]);
  return tarball([{ name: "a", data, pax: Object.fromEntries(named) }]);
}
const map01 = (map: string, numblocks: string, size: string, data = "") =>
  pax({ major: "0", minor: "1", map, numblocks, size }, data);
const map10 = (map: string, size: string, data = "") =>
  pax({ major: "1", minor: "0", realsize: size }, map.padEnd(512, "\0") + data);
/** Four parts fit into the header, 21 into each block that follows. */
function old(
  parts: ReadonlyArray<readonly [number, number]>,
  { size = 100, data = "", magic = "ustar  \0", extended = false } = {},
): Buffer {
  const archive = tarball([{ name: "a", type: "S", data }]);
  const octal = (value: number) => `${value.toString(8).padStart(11, "0")}\0`;
  archive.write(magic, 257, "latin1");
  archive.fill(0, 329, 500);
  for (const [index, [offset, length]] of parts.entries()) {
    archive.write(octal(offset) + octal(length), 386 + index * 24, "latin1");
  }
  if (extended) archive[482] = 1;
  archive.write(octal(size), 483, "latin1");
  resum(archive.subarray(0, 512));
  return archive;
}

test("a map may be empty, touch itself, and have parts of no bytes", () => {
  expect(parse(map01("", "0", "5"))[0]?.parts).toEqual([5]);
  expect(parse(map10("0\n", "5"))[0]?.parts).toEqual([5]);
  const parts = parse(map10("3\n0\n2\n2\n2\n9\n0\n", "9", "abcd"))[0];
  expect(contentOf(parts).toString("latin1")).toBe("abcd\0\0\0\0\0");
  expect(contentOf(parse(old([[2, 2]], { size: 5, data: "ab" }))[0]).toString()).toBe("\0\0ab\0");
});

test("a sparse file has the name and the attributes that its records say", () => {
  const records = { "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "real" };
  const archive = tarball([
    {
      name: "GNUSparseFile.7/real",
      data: "1\n0\n1\n".padEnd(512, "\0").concat("x"),
      pax: { ...records, "GNU.sparse.realsize": "3", "SCHILY.xattr.user.a": "b" },
    },
    { name: "after", data: "y" },
  ]);
  expect(parse(archive)).toMatchObject([
    { entry: { name: Buffer.from("real"), size: 3, isSparse: true } },
    { entry: { name: Buffer.from("after"), size: 1, isSparse: false } },
  ]);
});

const HUGE = "9".repeat(15);
const wrong: Array<[string, Buffer, string]> = [
  ["parts that overlap", map01("0,4,2,4", "2", "9", "abcdefgh"), "after 4"],
  ["parts out of order", map10("2\n4\n1\n0\n1\n", "9", "ab"), "after 5"],
  ["a part beyond the end", map01("8,4", "1", "9", "abcd"), "of 9"],
  ["a part beyond every end", map01(`${HUGE},${HUGE}`, "1", HUGE, ""), "of"],
  ["more data than the map says", map01("0,1", "1", "9", "ab"), "2 bytes stored"],
  ["less data than the map says", map10("1\n0\n3\n", "9", "ab"), "2 bytes stored"],
  ["a count that is too small", map01("0,1,5,1", "1", "9", "ab"), "another length"],
  ["a count that is too large", map01("0,1", "2", "9", "a"), "another length"],
  ["a count that no map can hold", map10(`${HUGE}\n`, "9"), "longer"],
  ["a count beyond every number", map10(`${"9".repeat(30)}\n`, "9"), "not a number"],
  ["no count", map01("0,1", "", "9", "a"), "not a number"],
  ["an odd count", map01("0,1,5", "1", "9", "a"), "another length"],
  ["letters in a map", map01("0,1x", "1", "9", "a"), "not a number"],
  ["a negative number", map01("-1,1", "1", "9", "a"), "not a number"],
  ["a plus sign in a map", map10("1\n+0\n1\n", "9", "a"), "not a number"],
  ["an empty line in a map", map10("1\n\n0\n1\n", "9", "a"), "not a number"],
  ["a NUL in a map", map10("1\n0\0\n1\n", "9", "a"), "not a number"],
  ["a map that is cut off", map10("2\n0\n1\n", "9"), "not a number"],
  ["a map without a line's end", pax({ major: "1", minor: "0", realsize: "9" }, "12"), "cut off"],
  ["a map longer than 1 MiB", map10(`1\n${"0".repeat(1_100_000)}`, "9"), "longer"],
  ["a size that is no number", map01("0,1", "1", "9z", "a"), "not a number"],
  ["a size beyond every number", map10("0\n", "9".repeat(20)), "not a number"],
  ["format 2.0", pax({ major: "2", minor: "0", realsize: "1" }, "a"), "2.0"],
  ["format 1 without a minor number", pax({ major: "1", realsize: "1" }, "a"), "unknown"],
  [
    "offsets without lengths",
    tarball([
      {
        name: "x",
        type: "x",
        data: "23 GNU.sparse.offset=0\n23 GNU.sparse.offset=5\n",
      },
      { name: "a", data: "a" },
    ]),
    "do not alternate",
  ],
  [
    "a directory",
    tarball([{ name: "a", type: "5", pax: { "GNU.sparse.major": "1", "GNU.sparse.minor": "0" } }]),
    "a sparse directory",
  ],
  ["a name with a NUL", pax({ major: "1", minor: "0", realsize: "1", name: "a\0b" }), "NUL"],
  [
    "the old format: parts that overlap",
    old(
      [
        [0, 2],
        [1, 1],
      ],
      { data: "abc" },
    ),
    "after 2",
  ],
  ["the old format: beyond the end", old([[99, 2]], { data: "ab" }), "of 100"],
  ["the old format: too much data", old([[0, 1]], { data: "ab" }), "2 bytes stored"],
  [
    "the old format in ustar",
    old([[0, 1]], { data: "a", magic: "ustar\x0000" }),
    "without the format",
  ],
  ["the old format: cut off", old([], { extended: true }).subarray(0, 512), "cut off"],
  [
    "the old format: a map without end",
    Buffer.concat([
      old([[0, 0]], { extended: true }).subarray(0, 512),
      ...Array<Buffer>(3000).fill(Buffer.alloc(512).fill(1, 504, 505)),
    ]),
    "longer",
  ],
];
test.each(wrong)("a sparse file is refused: %s", (_, archive, message) => {
  expect(() => parse(archive)).toThrow(TarError);
  expect(() => parse(archive)).toThrow(message);
  expect(() => parse(archive, 7)).toThrow(message);
});

test("a map of as many parts as fit is read", () => {
  const parts = 80_000;
  const lines = Array.from({ length: parts }, (_, index) => `${index * 2}\n1\n`).join("");
  const text = `${parts}\n${lines}`;
  const map = text.padEnd(Math.ceil(text.length / 512) * 512, "\0");
  const [file] = parse(map10(map, String(2 * parts), "x".repeat(parts)), 4096);
  expect(contentOf(file).equals(Buffer.from("x\0".repeat(parts)))).toBe(true);
});

test("the CRC of zeros is that of as many zeros, without making them", () => {
  for (const count of [0, 1, 2, 3, 255, 4096, 100_001]) {
    for (const text of ["", "a", "some bytes"]) {
      const whole = Buffer.concat([Buffer.from(text), Buffer.alloc(count)]);
      expect(crcWithZeros(crc32(text), count)).toBe(crc32(whole));
    }
  }
  expect(crcWithZeros(crcWithZeros(7, 2 ** 45), 2 ** 45)).toBe(crcWithZeros(7, 2 ** 46));
});

const specs: TarSpec[] = [{ name: "a", data: "x" }];
test("other GNU records change nothing", () => {
  const archive = tarball(specs.map((spec) => ({ ...spec, pax: { "GNU.sparse.x": "1" } })));
  expect(parse(archive)).toMatchObject([{ entry: { size: 1, isSparse: false } }]);
});
