import { afterEach, beforeEach, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { constants, zstdCompressSync } from "node:zlib";
import type { UnpackReport } from "../../src/image/unpack-report.ts";
import { unpackLayer } from "../../src/image/unpacker.ts";
import { getXattr } from "../../src/linux/file.ts";
import { randomOf } from "../fixtures/fuzz.ts";
import { EXECUTABLE } from "../fixtures/image-store.ts";
import { sha256 } from "../fixtures/registry.ts";
import { resum, type TarSpec, tarball } from "../fixtures/tar.ts";

let base: string;
let layer: string;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "crib-unpack-"));
  layer = join(base, "layer");
  mkdirSync(layer);
  writeFileSync(join(base, "outside"), "untouched");
  mkdirSync(join(base, "outside-directory"));
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

async function unpack(archive: Buffer): Promise<UnpackReport> {
  const limits = ["--max-bytes", "100000000", "--max-entries", "100000"];
  const child = Bun.spawn([...EXECUTABLE, "unpack", "--directory", layer, ...limits], {
    stdin: new Blob([new Uint8Array(archive)]),
    stdout: "pipe",
    stderr: "inherit",
    env: { PATH: "/usr/bin:/bin" },
  });
  const [output, exitCode] = [await new Response(child.stdout).text(), await child.exited];
  const report = JSON.parse(output.trim().split("\n").at(-1) ?? "") as UnpackReport;
  expect(exitCode).toBe(report.kind === "done" ? 0 : 1);
  return report;
}

/** The largest memory of a child that is fed piece by piece, in MB, and its report. */
async function unpackHuge(pieces: Iterable<Buffer>): Promise<{ report: UnpackReport; mb: number }> {
  const limits = ["--max-bytes", "10000000000", "--max-entries", "1000000"];
  const child = Bun.spawn([...EXECUTABLE, "unpack", "--directory", layer, ...limits], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { PATH: "/usr/bin:/bin" },
  });
  const output = new Response(child.stdout).text();
  let kib = 0;
  // Not getrusage's: that begins with what this process has.
  const watching = setInterval(() => {
    kib = Math.max(kib, highWaterKib(child.pid));
  }, 2);
  try {
    for (const piece of pieces) {
      child.stdin.write(piece);
      await child.stdin.flush();
    }
    await child.stdin.end();
  } catch {
    // It has ended: its report says why.
  }
  await child.exited;
  clearInterval(watching);
  const report = JSON.parse((await output).trim().split("\n").at(-1) ?? "") as UnpackReport;
  expect(kib).toBeGreaterThan(10_000);
  return { report, mb: kib / 1000 };
}

function highWaterKib(pid: number): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0);
  } catch {
    return 0;
  }
}

async function unpackEntries(...entries: TarSpec[]): Promise<UnpackReport> {
  return unpack(tarball(entries));
}

const at = (path: string) => join(layer, path);
const isWhiteout = (path: string) =>
  lstatSync(at(path)).isCharacterDevice() && lstatSync(at(path)).rdev === 0;
const isOpaque = (path: string) =>
  Buffer.from(getXattr(at(path), "trusted.overlay.opaque") ?? []).toString() === "y";

test("types, owners, modes, times, attributes and names arrive as the archive says", async () => {
  const capability = Buffer.from("0100000200200000000000000000000000000000", "hex");
  const raw = Buffer.from([0x72, 0xff, 0xfe]);
  const archive = tarball([
    { name: "./", type: "5", mode: 0o750, uid: 5, gid: 6, mtime: 1000 },
    { name: "dir/", type: "5", mode: 0o2775, uid: 1, gid: 2, mtime: 2000 },
    { name: "dir/file", data: "content", mode: 0o4755, uid: 3, gid: 4, mtime: 3000 },
    { name: "dir/link", type: "1", linkName: "dir/file" },
    { name: "dir/sym", type: "2", linkName: "/etc/passwd", uid: 7, gid: 8, mtime: 4000 },
    { name: "fifo", type: "6", mode: 0o622 },
    { name: "null", type: "3", mode: 0o666, major: 1, minor: 3 },
    { name: "loop", type: "4", mode: 0o660, major: 7, minor: 300 },
    { name: "cap", data: "x", uid: 9, pax: { "SCHILY.xattr.security.capability": capability } },
    { name: "old", data: "", pax: { mtime: "-1.5", path: raw } },
    { name: "big-id", pax: { uid: "3000000000", gid: "3000000001" } },
    { name: "dir/late", data: "y" },
  ]);
  const report = await unpack(archive);
  expect(report).toMatchObject({ kind: "done", diffId: sha256(archive), inodes: 11 });
  const stat = (path: string) => lstatSync(at(path));
  const mode = (path: string) => stat(path).mode & 0o7777;
  expect([stat(".").uid, stat(".").gid, mode("."), stat(".").mtimeMs]).toEqual([5, 6, 0o750, 1e6]);
  expect([stat("dir").uid, stat("dir").gid, mode("dir"), stat("dir").mtimeMs]).toEqual([
    1, 2, 0o2775, 2e6,
  ]);
  expect([stat("dir/file").uid, mode("dir/file"), stat("dir/file").mtimeMs]).toEqual([
    3, 0o4755, 3e6,
  ]);
  expect(readFileSync(at("dir/file"), "utf8")).toBe("content");
  expect(stat("dir/link").ino).toBe(stat("dir/file").ino);
  expect([readlinkSync(at("dir/sym")), stat("dir/sym").uid, stat("dir/sym").mtimeMs]).toEqual([
    "/etc/passwd",
    7,
    4e6,
  ]);
  expect([stat("fifo").isFIFO(), mode("fifo")]).toEqual([true, 0o622]);
  expect([stat("null").isCharacterDevice(), stat("null").rdev, mode("null")]).toEqual([
    true,
    0x103,
    0o666,
  ]);
  expect([stat("loop").isBlockDevice(), stat("loop").rdev]).toEqual([
    true,
    (7 << 8) | (300 & 0xff) | (256 << 12),
  ]);
  expect(Buffer.from(getXattr(at("cap"), "security.capability") ?? [])).toEqual(capability);
  expect(lstatSync(Buffer.concat([Buffer.from(`${layer}/`), raw]), { bigint: true }).mtimeNs).toBe(
    -1_500_000_000n,
  );
  expect([stat("big-id").uid, stat("big-id").gid]).toEqual([3000000000, 3000000001]);
  expect(stat("dir/late").gid).toBe(0);
});

test("an archive of GNU tar with xattrs is the tree that was packed", async () => {
  const tree = join(base, "tree");
  execFileSync("sh", [
    "-c",
    `mkdir ${tree} && cp -a /etc/alternatives /etc/default ${tree} && mkdir -m 1777 ${tree}/tmp`,
  ]);
  const tar = ["--xattrs", "--format=pax", "--sort=name", "-C", tree, "-c", "."];
  const archive = execFileSync("tar", tar, { maxBuffer: 1e9 });
  expect((await unpack(archive)).kind).toBe("done");
  const list = (root: string) =>
    execFileSync("sh", [
      "-c",
      `cd ${root} && find . -printf '%p %y %m %U %G %T@ %l\\n' | sort`,
    ]).toString();
  expect(list(layer)).toBe(list(tree));
  execFileSync("diff", ["-r", "--no-dereference", layer, tree]);
});

test("whiteouts become overlayfs's marks", async () => {
  const report = await unpackEntries(
    { name: "etc/", type: "5" },
    { name: "etc/.wh.gone" },
    { name: "opaque/.wh..wh..opq" },
    { name: "opaque/kept", data: "x" },
    { name: ".wh..wh.plnk/1.2" },
  );
  expect(report).toMatchObject({ kind: "done" });
  expect(isWhiteout("etc/gone")).toBe(true);
  expect(isOpaque("opaque")).toBe(true);
  expect(readdirSync(layer).sort()).toEqual(["etc", "opaque"]);
});

test("a whiteout and a file of the same layer leave the file, in both orders", async () => {
  await unpackEntries(
    { name: "a", data: "x" },
    { name: ".wh.a" },
    { name: ".wh.b" },
    { name: "b", data: "y" },
  );
  expect([readFileSync(at("a"), "utf8"), readFileSync(at("b"), "utf8")]).toEqual(["x", "y"]);
});

test("a whiteout and a directory of the same layer make the directory opaque, in both orders", async () => {
  await unpackEntries(
    { name: "a/", type: "5" },
    { name: ".wh.a" },
    { name: ".wh.b" },
    { name: "b/", type: "5" },
    { name: ".wh.c" },
    { name: "c/below", data: "x" },
  );
  expect(["a", "b", "c"].map(isOpaque)).toEqual([true, true, true]);
});

test("a later entry replaces an earlier one of any type", async () => {
  const report = await unpackEntries(
    { name: "a", data: "old, long" },
    { name: "a", data: "new" },
    { name: "dir/", type: "5" },
    { name: "dir/below", data: "x" },
    { name: "dir", data: "a file now" },
    { name: "sym", type: "2", linkName: "/a" },
    { name: "sym", data: "not through" },
    { name: "d2/", type: "5", mode: 0o700 },
    { name: "d2/kept", data: "k" },
    { name: "d2/", type: "5", mode: 0o755 },
  );
  expect(report).toMatchObject({ kind: "done" });
  expect(["a", "dir", "sym"].map((path) => readFileSync(at(path), "utf8"))).toEqual([
    "new",
    "a file now",
    "not through",
  ]);
  expect([lstatSync(at("d2")).mode & 0o777, readdirSync(at("d2"))]).toEqual([0o755, ["kept"]]);
});

test("directories that the archive does not mention are made", async () => {
  await unpackEntries({ name: "a/b/c/file", data: "x" });
  expect(lstatSync(at("a/b/c")).mode & 0o7777).toBe(0o755);
});

test("a symlink to a directory is followed inside the layer, as other engines do", async () => {
  await unpackEntries(
    { name: "usr/lib/", type: "5" },
    { name: "lib", type: "2", linkName: "/usr/lib" },
    { name: "lib/x", data: "in usr" },
  );
  expect(readFileSync(at("usr/lib/x"), "utf8")).toBe("in usr");
});

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
  ["..", [{ name: "a/../b" }], '".."'],
  [
    "overlay attributes",
    [{ name: "d", pax: { "SCHILY.xattr.trusted.overlay.redirect": "x" } }],
    "not allowed",
  ],
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
  ["a sparse map of GNU tar", [{ name: "x", type: "S" }], "sparse"],
  ["a sparse map of PAX", [{ name: "x", pax: { "GNU.sparse.map": "0,1" } }], "sparse"],
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

test("names that are no UTF-8 stay what they are, each a file of its own", async () => {
  const names = [[0xff], [0xfe], [0xc3], [0xed, 0xa0, 0x80], [0x61, 0x0a]].map((n) =>
    Buffer.from(n),
  );
  expect((await unpackEntries(...names.map((name) => ({ name })))).kind).toBe("done");
  const there = readdirSync(layer, { encoding: "buffer" }).map((name) => name.toString("hex"));
  expect(there.sort()).toEqual(names.map((name) => name.toString("hex")).sort());
});

test("a layer's size is what du says, with large directories, long symlinks and what was replaced", async () => {
  const many = Array.from({ length: 3000 }, (_, n) => ({ name: `many/${"n".repeat(60)}-${n}` }));
  const report = await unpackEntries(
    { name: "many/", type: "5" },
    ...many,
    { name: "implied/a/b", data: "x".repeat(5000) },
    { name: "long", type: "2", linkName: "l".repeat(200) },
    { name: "gone/", type: "5" },
    { name: "gone/deep/file", data: "x".repeat(9000) },
    { name: "gone", data: "a file now" },
    { name: "attributes/", type: "5", pax: { "SCHILY.xattr.user.a": "v".repeat(3000) } },
    { name: "again", data: "x".repeat(9000) },
    { name: "again", data: "y" },
    { name: "link", type: "1", linkName: "again" },
    { name: ".wh.hidden" },
  );
  const du = (flag: string) =>
    Number.parseInt(execFileSync("du", ["-s", flag, layer]).toString(), 10);
  expect(report).toMatchObject({ bytes: du("--block-size=1"), inodes: du("--inodes") });
});

test("the child has no more privileges than unpacking needs, and sees no proc", async () => {
  const probe = join(base, "probe.ts");
  writeFileSync(
    probe,
    `import { openSync, readFileSync } from "node:fs";
     const status = openSync("/proc/self/status", "r");
     const say = process.exit;
     process.exit = ((code) => {
       console.log(readFileSync(status, "utf8"));
       console.log("proc", require("node:fs").existsSync("/proc/self"));
       say(code);
     });
     const { unpack } = await import(${JSON.stringify(join(import.meta.dir, "../../src/cli/unpack.ts"))});
     unpack(["--directory", ${JSON.stringify(layer)}, "--max-bytes", "1000", "--max-entries", "10"]);`,
  );
  const child = Bun.spawnSync([process.execPath, probe], { stdin: Buffer.alloc(0) });
  const output = child.stdout.toString();
  // CHOWN DAC_OVERRIDE FOWNER FSETID MKNOD SYS_ADMIN SETFCAP
  expect(output).toContain("CapEff:\t000000008820001b");
  expect(output).toContain("CapBnd:\t000000008820001b");
  expect(output).toContain("NoNewPrivs:\t1");
  expect(output).toContain("proc false");
});

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

test("a child that does not go on is killed after the no-progress time", async () => {
  async function* bytes() {
    for (;;) yield new Uint8Array(1 << 20);
  }
  const options = {
    executable: ["/bin/sh", "-c", "exec sleep 1000"],
    directory: layer,
    indexFile: join(base, "index"),
    maxBytes: 1e9,
    maxEntries: 10,
    noProgressMs: 300,
    what: "layer x",
  };
  await expect(unpackLayer(bytes(), options, new AbortController().signal)).rejects.toMatchObject({
    code: "DeadlineExceeded",
    message: "layer x: no progress for 0.3 seconds",
  });
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

test("a directory that is mentioned twice has its last times; one within another keeps its own", async () => {
  await unpackEntries(
    { name: "a/", type: "5", mtime: 1 },
    { name: "a/b/", type: "5", mtime: 2 },
    { name: "a/", type: "5", mtime: 3 },
    { name: "a/b/file", mtime: 4 },
  );
  expect(["a", "a/b"].map((path) => lstatSync(at(path)).mtimeMs)).toEqual([3000, 2000]);
});

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
