/** What arrives of an archive. What must not, is in image-unpack-hostile.test.ts. */
import { expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { getXattr } from "../../src/linux/file.ts";
import { mount, unmount } from "../../src/linux/mount.ts";
import { sha256 } from "../fixtures/registry.ts";
import { tarball } from "../fixtures/tar.ts";
import { at, base, freshLayers, layer, unpack, unpackEntries } from "../fixtures/unpack.ts";

freshLayers();

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

test("attributes that the file system cannot hold are left out", async () => {
  const quarantine = { "SCHILY.xattr.com.apple.quarantine": "0081;x", "SCHILY.xattr.user.x": "y" };
  const entries = [
    { name: "dir/", type: "5", pax: quarantine },
    { name: "dir/file", data: "content", pax: quarantine },
    { name: "dir/sym", type: "2", linkName: "file", pax: quarantine },
  ];
  expect(await unpackEntries(...entries)).toMatchObject({ kind: "done" });
  expect(Buffer.from(getXattr(at("dir/file"), "user.x") ?? []).toString()).toBe("y");
  mount({ source: "ramfs", target: layer, type: "ramfs" });
  try {
    expect(await unpackEntries(...entries)).toMatchObject({ kind: "done" });
    expect(readFileSync(at("dir/sym"), "utf8")).toBe("content");
    const lost = {
      "SCHILY.xattr.security.capability": Buffer.from(
        "0100000200200000000000000000000000000000",
        "hex",
      ),
    };
    expect(await unpackEntries({ name: "ping", data: "x", pax: lost })).toMatchObject({
      kind: "failed",
      message: expect.stringContaining("EOPNOTSUPP"),
    });
  } finally {
    unmount(layer);
  }
});

test("sparse files arrive with their holes, of which a layer has as many bytes as it may have", async () => {
  const sparse = (size: string, map = "1\n40000\n4\n") => ({
    data: `${map.padEnd(512, "\0")}data`,
    pax: { "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": size },
  });
  expect(
    await unpackEntries(
      { name: "a", ...sparse("90000000") },
      { name: "b", ...sparse("40004") },
      { name: "a2", type: "1", linkName: "a" },
    ),
  ).toMatchObject({ kind: "done", inodes: 3 });
  const { size, blocks } = lstatSync(at("a"));
  expect([size, blocks < 100]).toEqual([90_000_000, true]);
  const content = readFileSync(at("b"));
  expect(content.equals(Buffer.concat([Buffer.alloc(40_000), Buffer.from("data")]))).toBe(true);
  expect(await unpackEntries({ name: "c", ...sparse("900000000000000") })).toMatchObject({
    kind: "failed",
    reason: "limit",
  });
});

test("hard links to what AUFS kept for them are files of their own", async () => {
  const report = await unpackEntries(
    { name: ".wh..wh.plnk/", type: "5", mode: 0o700 },
    { name: ".wh..wh.plnk/12.34", data: "content", mode: 0o640, uid: 5 },
    { name: ".wh..wh.plnk/56.78", data: "nobody's" },
    { name: ".wh..wh.aufs", data: "" },
    { name: "one", type: "1", linkName: ".wh..wh.plnk/12.34" },
    { name: "dir/two", type: "1", linkName: "/.wh..wh.plnk/12.34" },
  );
  expect(report).toMatchObject({ kind: "done", inodes: 3 });
  expect(readdirSync(layer).sort()).toEqual(["dir", "one"]);
  expect(readFileSync(at("dir/two"), "utf8")).toBe("content");
  expect(lstatSync(at("one"))).toMatchObject({
    uid: 5,
    nlink: 2,
    ino: lstatSync(at("dir/two")).ino,
  });
});

test("attributes of overlayfs and what stands for the root are left out, and told", async () => {
  const mark = {
    "SCHILY.xattr.trusted.overlay.opaque": "y",
    "SCHILY.xattr.user.overlay.redirect": "/",
  };
  const report = await unpackEntries(
    { name: "d/", type: "5", pax: { ...mark, "SCHILY.xattr.user.kept": "z" } },
    { name: "./", data: "a file", mode: 0o600 },
    { name: "/", type: "2", linkName: "/tmp" },
    ...Array.from({ length: 9 }, (_, index) => ({ name: `f${index}`, pax: mark })),
  );
  expect(report).toMatchObject({ kind: "done" });
  expect(
    ["trusted.overlay.opaque", "user.overlay.redirect", "user.kept"].map((name) => [
      name,
      getXattr(at("d"), name) !== undefined,
    ]),
  ).toEqual([
    ["trusted.overlay.opaque", false],
    ["user.overlay.redirect", false],
    ["user.kept", true],
  ]);
  const warnings = "warnings" in report ? report.warnings : [];
  expect(warnings.slice(0, 4)).toEqual([
    expect.stringContaining('"d/": attribute trusted.overlay.opaque'),
    expect.stringContaining('"d/": attribute user.overlay.redirect'),
    expect.stringContaining("root"),
    expect.stringContaining("root"),
  ]);
  expect(warnings.at(-1)).toBe("and 17 more");
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

test("a directory that is mentioned twice has its last times; one within another keeps its own", async () => {
  await unpackEntries(
    { name: "a/", type: "5", mtime: 1 },
    { name: "a/b/", type: "5", mtime: 2 },
    { name: "a/", type: "5", mtime: 3 },
    { name: "a/b/file", mtime: 4 },
  );
  expect(["a", "a/b"].map((path) => lstatSync(at(path)).mtimeMs)).toEqual([3000, 2000]);
});
