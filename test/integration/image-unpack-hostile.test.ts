/** Archives that attack: what they must not reach, and what unpacking them may take. */
import { expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { chmodSync, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { constants, zstdCompressSync } from "node:zlib";
import type { UnpackReport } from "../../src/image/unpack-report.ts";
import { unpackLayer } from "../../src/image/unpacker.ts";
import { getXattr } from "../../src/linux/file.ts";
import { randomOf } from "../fixtures/fuzz.ts";
import { confined } from "../fixtures/image-store.ts";
import { resum, type TarSpec, tarball } from "../fixtures/tar.ts";
import {
  at,
  base,
  freshLayers,
  layer,
  unpack,
  unpackEntries,
  unpackHuge,
} from "../fixtures/unpack.ts";

freshLayers();

const outside = "../outside";
const hostile: Array<[string, TarSpec[]]> = [
  ["a name that climbs", [{ name: "../outside", data: "evil" }]],
  ["a name that climbs in the middle", [{ name: "a/../../outside", data: "evil" }]],
  ["an absolute name", [{ name: "/tmp/crib-evil-absolute", data: "evil" }]],
  [
    "a symlink up, then through it",
    [
      { name: "l", type: "2", linkName: ".." },
      { name: "l/outside", data: "evil" },
    ],
  ],
  [
    "a chain of symlinks, then through it",
    [
      { name: "a", type: "2", linkName: "b" },
      { name: "b", type: "2", linkName: "../../../../.." },
      { name: "a/tmp/crib-evil-chain", data: "evil" },
    ],
  ],
  [
    "an absolute symlink, then through it",
    [
      { name: "l", type: "2", linkName: "/tmp" },
      { name: "l/crib-evil-link", data: "evil" },
    ],
  ],
  [
    "a symlink at the name of a file",
    [
      { name: "l", type: "2", linkName: outside },
      { name: "l", data: "evil" },
    ],
  ],
  ["a hard link up", [{ name: "h", type: "1", linkName: outside }]],
  ["a hard link to an absolute path", [{ name: "h", type: "1", linkName: "/etc/passwd" }]],
  [
    "a hard link through a symlink",
    [
      { name: "l", type: "2", linkName: ".." },
      { name: "h", type: "1", linkName: "l/outside" },
      { name: "h", data: "evil" },
    ],
  ],
  [
    "a hard link to a symlink, then written",
    [
      { name: "l", type: "2", linkName: outside },
      { name: "h", type: "1", linkName: "l" },
      { name: "h", data: "evil" },
    ],
  ],
  ["a whiteout that climbs", [{ name: "../.wh.outside" }]],
  ["a whiteout of ..", [{ name: "a/.wh..." }]],
  ["a whiteout of .", [{ name: "a/.wh.." }]],
  ["a whiteout without a name", [{ name: "a/.wh." }]],
  [
    "a whiteout through a symlink",
    [{ name: "l", type: "2", linkName: ".." }, { name: "l/.wh.outside" }],
  ],
  [
    "an opaque mark through a symlink",
    [{ name: "l", type: "2", linkName: "../outside-directory" }, { name: "l/.wh..wh..opq" }],
  ],
  [
    "a directory through a symlink",
    [
      { name: "l", type: "2", linkName: ".." },
      { name: "l/outside-directory/new/", type: "5" },
    ],
  ],
  [
    "modes through a symlink",
    [
      { name: "l", type: "2", linkName: "../outside-directory" },
      { name: "l/", type: "5", mode: 0o777 },
    ],
  ],
  [
    "a device through a symlink",
    [
      { name: "l", type: "2", linkName: ".." },
      { name: "l/device", type: "3", major: 1, minor: 3 },
    ],
  ],
  [
    "a long PAX name that climbs",
    [{ name: "x", data: "evil", pax: { path: `${"a/../".repeat(50)}../outside` } }],
  ],
  [
    "a PAX link that climbs",
    [{ name: "x", type: "1", linkName: "y", pax: { linkpath: "../outside" } }],
  ],
  [
    "/proc by way of a symlink",
    [
      { name: "p", type: "2", linkName: "/proc/self/root" },
      { name: "p/tmp/crib-evil-proc", data: "evil" },
    ],
  ],
  [
    "redirect attributes of overlayfs",
    [{ name: "d/", type: "5", pax: { "SCHILY.xattr.trusted.overlay.redirect": "/../.." } }],
  ],
  [
    "user attributes of overlayfs",
    [{ name: "d/", type: "5", pax: { "SCHILY.xattr.user.overlay.opaque": "y" } }],
  ],
  ["a file at the root's name", [{ name: "./", data: "evil" }]],
  ["a symlink at the root's name", [{ name: "/", type: "2", linkName: "/tmp" }]],
];
test.each(hostile)("%s does not leave the layer", async (_, entries) => {
  const list = () =>
    execFileSync("find", [base, "/tmp", "-maxdepth", "1", "-printf", "%p %m %U\n"]).toString();
  chmodSync(join(base, "outside-directory"), 0o700);
  const before = list()
    .split("\n")
    .filter((line) => line.includes(base) || line.includes("crib-evil"));
  await unpackEntries(...entries, { name: "after", data: "x" });
  const after = list()
    .split("\n")
    .filter((line) => line.includes(base) || line.includes("crib-evil"));
  const inside = (lines: string[]) => lines.filter((line) => !line.startsWith(`${layer} `));
  expect(inside(after)).toEqual(inside(before));
  expect(readFileSync(join(base, "outside"), "utf8")).toBe("untouched");
  expect(lstatSync(join(base, "outside")).nlink).toBe(1);
  expect(lstatSync("/etc/passwd").nlink).toBe(1);
  expect(readdirSync(join(base, "outside-directory"))).toEqual([]);
  expect(getXattr(join(base, "outside-directory"), "trusted.overlay.opaque")).toBeUndefined();
});

test.each([
  ["..", [{ name: "a/../../b" }], '".."'],
  ["a whiteout of ..", [{ name: ".wh..." }], "names no file"],
  [
    "an entry below a file",
    [
      { name: "a", data: "x" },
      { name: "a/b", data: "y" },
    ],
    "no directory",
  ],
  ["a name of 100 KB", [{ name: "x", pax: { path: "n".repeat(100_000) } }], "ENAMETOOLONG"],
  [
    "a path of 100 KB",
    [{ name: "x", type: "5", pax: { path: "dir/".repeat(25_000) } }],
    "ENAMETOOLONG",
  ],
  [
    "a long name of GNU tar of 100 KB",
    [
      { name: "long", type: "L", data: `${"n".repeat(100_000)}\0` },
      { name: "x", data: "x" },
    ],
    "ENAMETOOLONG",
  ],
  [
    "a symlink to 100 KB",
    [{ name: "x", type: "2", linkName: "y", pax: { linkpath: "n".repeat(100_000) } }],
    "ENAMETOOLONG",
  ],
  ["a sparse map of GNU tar", [{ name: "x", type: "S" }], "GNU tar"],
  ["a sparse map of PAX", [{ name: "x", pax: { "GNU.sparse.map": "0,1" } }], "sparse"],
  [
    "a hard link to what AUFS has not kept",
    [{ name: "a", type: "1", linkName: ".wh..wh.plnk/1.2" }],
    "ENOENT",
  ],
  ["a number that would be another device's", [{ name: "a", type: "3", major: 4096 }], "device"],
  ["a hard link to nothing", [{ name: "a", type: "1", linkName: "missing" }], "ENOENT"],
  [
    "a hard link to itself",
    [
      { name: "a", data: "x" },
      { name: "a", type: "1", linkName: "./a" },
    ],
    "itself",
  ],
  [
    "a dangling parent",
    [
      { name: "l", type: "2", linkName: "nowhere" },
      { name: "l/a/", type: "5" },
    ],
    "ENOENT",
  ],
])("%s is refused by name", async (_, entries, message) => {
  expect(await unpackEntries(...(entries as TarSpec[]))).toMatchObject({
    kind: "failed",
    reason: "archive",
    message: expect.stringContaining(message),
  });
});

test("what is refused is told in a line of bounded length", async () => {
  const report = await unpackEntries({ name: "x", pax: { path: "\n\u001b".repeat(50_000) } });
  expect(report.kind).toBe("failed");
  const message = "message" in report ? report.message : "";
  expect(message.length).toBeLessThan(1000);
  for (const character of ["\n", "\u001b"]) expect(message).not.toContain(character);
});

/** So many that the engine's collector has run and looked at its own memory. */
const COLLECTED = Array.from({ length: 2000 }, (_, index): TarSpec => ({ name: `f${index}` }));

test.each<[string, TarSpec[]]>([
  ["a FIFO", [{ name: "proc/self/statm", type: "6" }]],
  ["a device", [{ name: "proc/self/statm", type: "3", major: 1, minor: 5 }]],
  ["a directory", [{ name: "proc/self/statm/", type: "5" }]],
  [
    "a symlink to a FIFO",
    [
      { name: "pipe", type: "6" },
      { name: "proc/self/statm", type: "2", linkName: "/pipe" },
    ],
  ],
  [
    "a FIFO in a directory of another name",
    [
      { name: "other/self/statm", type: "6" },
      { name: "proc", type: "2", linkName: "other" },
    ],
  ],
])(
  "what the engine reads of itself is not asked of the layer, which has %s there",
  async (_, entries) => {
    const report = await unpackEntries(...entries, ...COLLECTED);
    expect(report).toMatchObject({ kind: "done" });
    expect(lstatSync(at("f1999")).isFile()).toBe(true);
    expect(execFileSync("find", [".", "-path", "*self/statm"], { cwd: layer }).toString()).not.toBe(
      "",
    );
  },
);

test("mutated archives never escape and never crash the child", async () => {
  const seedEntries: TarSpec[] = [
    { name: "d/", type: "5" },
    { name: "d/f", data: "x".repeat(600), pax: { mtime: "1.5" } },
    { name: "l", type: "2", linkName: ".." },
    { name: "h", type: "1", linkName: "d/f" },
    { name: "d/.wh.g" },
  ];
  const seed = tarball(seedEntries);
  const random = randomOf(99);
  for (let round = 0; round < 60; round++) {
    const archive = Buffer.from(seed);
    const block = 512 * random(archive.length / 512);
    for (let change = 0; change < 3; change++) {
      archive[block + random(350)] =
        [0x2e, 0x2f, 0x35, 0x32, 0x31, 0x00, random(256)][random(7)] ?? 0;
    }
    resum(archive.subarray(block, block + 512));
    const report = await unpack(archive);
    if (report.kind === "failed") expect(["archive", "decode"]).toContain(report.reason);
    expect(readdirSync(base).sort()).toEqual(["layer", "outside", "outside-directory"]);
    expect(readFileSync(join(base, "outside"), "utf8")).toBe("untouched");
    rmSync(layer, { recursive: true });
    mkdirSync(layer);
  }
}, 60_000);

/** Feeds `bytes` to a shell script in the place of the child. */
function feed(script: string, bytes: AsyncIterable<Uint8Array>, noProgressMs: number) {
  const options = {
    child: confined(["/bin/sh", "-c", script]),
    directory: layer,
    indexFile: join(base, "index"),
    maxBytes: 1e9,
    maxEntries: 10,
    noProgressMs,
    what: "layer x",
  };
  return unpackLayer(bytes, options, new AbortController().signal);
}

async function* few() {
  yield new Uint8Array(10);
}

async function* endless() {
  for (;;) yield new Uint8Array(1 << 20);
}

const progress = (taken: string) =>
  `echo '{"kind":"progress","bytes":1,"inodes":1,"taken":'${taken}'}'; sleep 0.1`;

test.each([
  ["takes nothing of many bytes", "exec sleep 1000", endless],
  ["takes nothing of few bytes, which are in its pipe", "exec sleep 1000", few],
  [
    "takes some and then only talks",
    `head -c 5 >/dev/null; while :; do ${progress("5")}; done`,
    endless,
  ],
  ["ends its input, and not itself", "exec <&-; exec sleep 1000", endless],
])("a child that %s is killed after the no-progress time", async (_, script, bytes) => {
  await expect(feed(script, bytes(), 300)).rejects.toMatchObject({
    code: "DeadlineExceeded",
    message: "layer x: no progress for 0.3 seconds",
  });
});

test("a child that goes on, or has all and writes it to disk, may take longer than that", async () => {
  const layerOfMany = async function* () {
    for (let count = 0; count < 8; count++) yield new Uint8Array(1 << 20);
  };
  const done: UnpackReport = {
    ...{ kind: "done", diffId: `sha256:${"0".repeat(64)}`, bytes: 1, inodes: 1 },
    ...{ warnings: [], implied: 0, hasRoot: true },
  };
  const script = `
    n=0; while [ $n -lt 20 ]; do n=$((n + 1)); ${progress("$n")}; done
    cat >/dev/null
    echo '{"kind":"taken"}'; sleep 2
    echo '${JSON.stringify(done)}'`;
  expect(await feed(script, layerOfMany(), 1500)).toEqual(done);
});

const MEMORY_LIMIT_MB = 200;

test("directories with many attributes take no memory: they are forgotten when they are made", async () => {
  const label = Buffer.alloc(500_000, "x");
  function* directories() {
    for (let n = 0; n < 600; n++) {
      const pax = { "SCHILY.xattr.security.selinux": label };
      yield tarball([{ name: `d${n}/`, type: "5", mtime: n, pax }], { end: n === 599 });
    }
  }
  const { report, mb } = await unpackHuge(directories());
  expect(report).toMatchObject({ kind: "done", inodes: 601 });
  expect(mb).toBeLessThan(MEMORY_LIMIT_MB);
  for (const n of [0, 599]) expect(lstatSync(at(`d${n}`)).mtimeMs).toBe(n * 1000);
}, 60_000);

test("a zstd frame that wants more than 32 MiB kept is refused, and less is not", async () => {
  const part = Buffer.from(crypto.getRandomValues(new Uint8Array(1 << 20)));
  const tar = tarball([{ name: "a", data: Buffer.concat(Array.from({ length: 70 }, () => part)) }]);
  const frame = (windowLog: number) => {
    const params = {
      [constants.ZSTD_c_windowLog]: windowLog,
      [constants.ZSTD_c_compressionLevel]: 1,
    };
    return unpackHuge([zstdCompressSync(tar, { params })]);
  };
  const { report, mb } = await frame(25);
  expect(report).toMatchObject({ kind: "done" });
  expect(mb).toBeLessThan(MEMORY_LIMIT_MB);
  expect((await frame(26)).report).toMatchObject({ kind: "failed", reason: "decode" });
}, 60_000);
