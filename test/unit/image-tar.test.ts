import { afterEach, beforeEach, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import {
  linkSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { placeEntry } from "../../src/image/layer-path.ts";
import { type TarEntry, TarParser } from "../../src/image/tar.ts";
import { TarError } from "../../src/image/tar-error.ts";
import { resum, type TarSpec, tarball } from "../fixtures/tar.ts";

interface Read extends TarEntry {
  data: Buffer;
  ended: boolean;
}

function parse(archive: Buffer, step = 65_536): Read[] {
  const entries: Read[] = [];
  const parser = new TarParser({
    entry: (entry) => entries.push({ ...entry, data: Buffer.alloc(0), ended: false }),
    data: (chunk) => {
      const last = entries.at(-1);
      if (last !== undefined) last.data = Buffer.concat([last.data, chunk]);
    },
    hole: (bytes) => {
      const last = entries.at(-1);
      if (last === undefined || bytes > 1e6) return;
      last.data = Buffer.concat([last.data, Buffer.alloc(bytes)]);
    },
    end: () => {
      const last = entries.at(-1);
      if (last !== undefined) last.ended = true;
    },
  });
  for (let offset = 0; offset < archive.length; offset += step) {
    parser.push(archive.subarray(offset, offset + step));
  }
  parser.finish();
  return entries;
}

const names = (entries: Read[]) => entries.map(({ name }) => name.toString());

let tree: string;
beforeEach(() => {
  tree = mkdtempSync(join(tmpdir(), "crib-tar-"));
});
afterEach(() => rmSync(tree, { recursive: true, force: true }));

const LONG = `${"d".repeat(90)}/${"e".repeat(90)}/${"f".repeat(120)}`;

for (const format of ["gnu", "pax", "ustar", "oldgnu", "v7"]) {
  test.each([1, 511, 512, 65_536])(
    `GNU tar's ${format} archives are read, fed by %d bytes`,
    (step) => {
      mkdirSync(join(tree, "dir"));
      writeFileSync(join(tree, "dir/file"), "x".repeat(1000));
      writeFileSync(join(tree, "empty"), "");
      utimesSync(join(tree, "empty"), 1_000_000, 1_000_000);
      linkSync(join(tree, "empty"), join(tree, "hard"));
      symlinkSync("dir/file", join(tree, "soft"));
      if (format !== "v7" && format !== "ustar") {
        mkdirSync(join(tree, LONG, ".."), { recursive: true });
        writeFileSync(join(tree, LONG), "long");
        symlinkSync("t".repeat(300), join(tree, "longlink"));
      }
      const files = ["--sort=name", "--owner=1234:1234", "--group=77:77", "-C", tree, "."];
      const archive = execFileSync("tar", ["-c", `--format=${format}`, ...files], {
        maxBuffer: 1e8,
      });
      const entries = parse(archive, step);
      const find = (name: string) => entries.find((entry) => entry.name.toString() === name);
      expect(find("./dir/")).toMatchObject({ type: "directory", uid: 1234, gid: 77, mode: 0o755 });
      expect(find("./dir/file")).toMatchObject({ type: "file", size: 1000, ended: true });
      expect(find("./dir/file")?.data.toString()).toBe("x".repeat(1000));
      expect(find("./empty")).toMatchObject({ type: "file", size: 0, ended: true });
      expect(find("./empty")?.mtime.seconds).toBe(1_000_000);
      expect(find("./hard")?.linkName.toString()).toBe("./empty");
      expect(find("./hard")?.type).toBe("hardlink");
      expect(find("./soft")).toMatchObject({ type: "symlink" });
      if (format !== "v7" && format !== "ustar") {
        expect(find(`./${LONG}`)?.data.toString()).toBe("long");
        expect(find("./longlink")?.linkName.toString()).toBe("t".repeat(300));
      }
    },
  );
}

test("PAX records override the header: raw xattrs, times before 1970, large ids, raw names", () => {
  const xattr = Buffer.from([0, 1, 2, 0x0a, 0x3d, 255]);
  const [entry] = parse(
    tarball([
      {
        name: "short",
        data: "abc",
        pax: {
          path: Buffer.from([0x61, 0xff, 0xfe]),
          mtime: "-1.25",
          atime: "1700000000.123456789",
          uid: "4294967294",
          gid: "2097152",
          "SCHILY.xattr.security.capability": xattr,
          "SCHILY.xattr.user.empty": "",
          comment: "é",
        },
      },
    ]),
  );
  expect(entry?.name).toEqual(Buffer.from([0x61, 0xff, 0xfe]));
  expect(entry?.mtime).toEqual({ seconds: -2, nanoseconds: 750_000_000 });
  expect(entry?.atime).toEqual({ seconds: 1_700_000_000, nanoseconds: 123_456_789 });
  expect([entry?.uid, entry?.gid]).toEqual([4294967294, 2097152]);
  expect(entry?.xattrs.get("security.capability")).toEqual(xattr);
  expect(entry?.xattrs.get("user.empty")).toEqual(Buffer.alloc(0));
});

test("a PAX record holds for one entry only, a global one for none", () => {
  const records = { "SCHILY.xattr.user.a": "1" };
  const archive = Buffer.concat([
    tarball(
      [
        { name: "global", type: "g", data: "14 path=wrong\n" },
        { name: "a", pax: records },
      ],
      {
        end: false,
      },
    ),
    tarball([{ name: "b" }]),
  ]);
  const entries = parse(archive);
  expect(names(entries)).toEqual(["a", "b"]);
  expect(entries.map(({ xattrs }) => xattrs.size)).toEqual([1, 0]);
});

test("numbers in base 256 are read, negative ones too", () => {
  const archive = tarball([{ name: "a" }]);
  archive.set([0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff], 108);
  archive.set([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], 136);
  resum(archive.subarray(0, 512));
  const [entry] = parse(archive);
  expect(entry?.uid).toBe(0x7fffffff);
  expect(entry?.mtime.seconds).toBe(-2);
});

const wrong: Array<[string, Buffer, string]> = [
  ["text", Buffer.alloc(1024, "hello "), "checksum"],
  ["a cut off header", tarball([{ name: "a" }]).subarray(0, 300), "cut off"],
  ["cut off data", tarball([{ name: "a", data: "x".repeat(600) }]).subarray(0, 1100), "cut off"],
  [
    "a PAX header and nothing after",
    tarball([{ name: "a", pax: { path: "b" } }]).subarray(0, 1024),
    "cut off",
  ],
  ["a multi-volume part", tarball([{ name: "a", type: "M" }]), "not supported"],
  [
    "a PAX record without length",
    tarball([{ name: "x", type: "x", data: "path=a\n" }, { name: "a" }]),
    "PAX",
  ],
  [
    "a PAX record that is too long",
    tarball([{ name: "x", type: "x", data: "99 path=a\n" }, { name: "a" }]),
    "PAX",
  ],
  [
    "a PAX record of length 0",
    tarball([{ name: "x", type: "x", data: "0 path=a\n" }, { name: "a" }]),
    "PAX",
  ],
  ["a PAX size that is negative", tarball([{ name: "a", pax: { size: "-1" } }]), "size"],
  ["a PAX size that is no number", tarball([{ name: "a", pax: { size: "0x1" } }]), "size"],
  ["an owner that means to leave it", tarball([{ name: "a", pax: { uid: "4294967295" } }]), "uid"],
  [
    "an owner that means to leave it, negative",
    tarball([{ name: "a", pax: { gid: "-1" } }]),
    "gid",
  ],
  ["an owner of more than 32 bits", tarball([{ name: "a", pax: { uid: "4294967296" } }]), "uid"],
  [
    "an entry between blocks of zeros",
    Buffer.concat([Buffer.alloc(512), tarball([{ name: "a" }])]),
    "follows a block of zeros",
  ],
  [
    "a PAX record without a name",
    tarball([{ name: "x", type: "x", data: "5 =a\n" }, { name: "a" }]),
    "PAX",
  ],
  ["a PAX size beyond 2^53", tarball([{ name: "a", pax: { size: "99999999999999999" } }]), "size"],
  ["a name with a NUL", tarball([{ name: "a", pax: { path: Buffer.from("a\0b") } }]), "NUL"],
  [
    "2 MiB of metadata",
    tarball([{ name: "x", type: "L", data: Buffer.alloc(2_000_000) }]),
    "bytes of names",
  ],
  [
    "endless metadata before one entry",
    tarball(Array<TarSpec>(20).fill({ name: "x", type: "K", data: Buffer.alloc(100_000) })),
    "bytes of names",
  ],
];
test.each(wrong)("%s is refused", (_, archive, message) => {
  expect(() => parse(archive)).toThrow(TarError);
  expect(() => parse(archive)).toThrow(message);
});

test("numbers are read with zeros before them, names of star end where its times begin", () => {
  const archive = tarball([{ name: "a", mode: 0o640 }]);
  archive.write("\0\0  640\0", 100, "latin1");
  archive.write("p".repeat(131), 345, "latin1");
  archive.write("14524770000\0", 476, "latin1");
  archive.write("tar\0", 508, "latin1");
  resum(archive.subarray(0, 512));
  expect(parse(archive)).toMatchObject([
    { mode: 0o640, name: Buffer.from(`${"p".repeat(131)}/a`) },
  ]);
});

test("a prefix in the format of GNU tar, as Go wrote it, is part of the name; times are not", () => {
  const archive = tarball([{ name: "a" }, { name: "b" }]);
  for (const [start, text] of [
    [0, "some/directory"],
    [512, "14524770000\x0014524770000"],
  ] as const) {
    archive.write("ustar  \0", start + 257, "latin1");
    archive.write(text, start + 345, "latin1");
    resum(archive.subarray(start, start + 512));
  }
  expect(names(parse(archive))).toEqual(["some/directory/a", "b"]);
});

test("nobody is nobody, also as a negative number", () => {
  const [entry] = parse(tarball([{ name: "a", pax: { uid: "-2", gid: "4294967294" } }]));
  expect([entry?.uid, entry?.gid]).toEqual([4294967294, 4294967294]);
});

test("a name that ends in a slash is a directory's in the format before ustar only", () => {
  const archive = tarball([
    { name: "old/", type: "\0" },
    { name: "new/", type: "0", data: "content" },
  ]);
  expect(parse(archive)).toMatchObject([
    { type: "directory", size: 0 },
    { type: "file", size: 7, data: Buffer.from("content") },
  ]);
});

test("an archive may end where its last file ends", () => {
  const archive = tarball([{ name: "a", data: "content" }], { end: false });
  expect(parse(archive.subarray(0, 512 + 7))).toMatchObject([{ data: Buffer.from("content") }]);
});

test("what follows the end mark does not count, and the mark may be missing", () => {
  const archive = tarball([{ name: "a" }]);
  expect(names(parse(Buffer.concat([archive, Buffer.alloc(5000, "x")])))).toEqual(["a"]);
  expect(names(parse(tarball([{ name: "a" }], { end: false })))).toEqual(["a"]);
});

test.each([
  ["a/.wh.b", { kind: "whiteout", path: ["a", "b"] }],
  [".wh.b", { kind: "whiteout", path: ["b"] }],
  ["a/.wh..wh..opq", { kind: "opaque", path: ["a"] }],
  ["a/.wh..wh.aufs", { kind: "ignored" }],
  [".wh..wh.plnk/1.2", { kind: "link target", path: [".wh..wh.plnk", "1.2"] }],
  [".wh..wh.plnk", { kind: "ignored" }],
  ["a/.wh..wh.plnk/1.2", { kind: "ignored" }],
  ["a/../b", { kind: "entry", path: ["b"] }],
  ["/a/b/../../.wh.c", { kind: "whiteout", path: ["c"] }],
  ["./a//b/./c/", { kind: "entry", path: ["a", "b", "c"] }],
  ["/", { kind: "entry", path: [] }],
  ["a/...", { kind: "entry", path: ["a", "..."] }],
])("the name %s is %j", (name, expected) => {
  expect(placeEntry(Buffer.from(name))).toEqual(expected as never);
});

test.each([
  "..",
  "../x",
  "/..",
  "a/../../b",
  "a/.wh.",
  "a/.wh..",
  "a/.wh...",
  ".wh.a/b",
  ".wh..wh..opq/x",
])("the name %s is refused", (name) => {
  expect(() => placeEntry(Buffer.from(name))).toThrow(TarError);
});
