/** What directories are like that an upper layer has files in, but does not mention. */
import { expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { lstatSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Image } from "../../src/image/images.ts";
import { getXattr } from "../../src/linux/file.ts";
import { skopeo } from "../fixtures/archives.ts";
import { imageNode } from "../fixtures/image-node.ts";
import { EXECUTABLE } from "../fixtures/image-store.ts";
import { pushImage } from "../fixtures/registry.ts";
import type { TarSpec } from "../fixtures/tar.ts";

const node = imageNode();
let images = 0;

async function push(...layers: TarSpec[][]): Promise<string> {
  images += 1;
  const name = `inherit:${images}`;
  await pushImage(node.registry, name, { layers });
  return `${node.proxy.host}/${name}`;
}

/** The directory of one of an image's layers, the base first. */
function directoryOf(image: Image, position: number): string {
  const row = node.store.database
    .query("SELECT directory FROM layers WHERE chain_id = ?")
    .get(image.layers[position] ?? "") as { directory: string };
  return join(node.store.root, "layers", row.directory);
}

function look(path: string): string {
  const { mode, uid, gid } = lstatSync(path);
  return `${(mode & 0o7777).toString(8)} ${uid}:${gid}`;
}

/** Mode and owner of paths in the layer at `position`. */
const inLayer = (image: Image, position: number, paths: readonly string[]) =>
  paths.map((path) => look(join(directoryOf(image, position), path)));

const whole = (layers: number) => ({ checkedLayers: layers, damaged: [] });
const check = (repair = false) => node.store.images.check({ fast: false, repair });

const ACL = Buffer.from(
  "0200000001000700ffffffff020007000100000004000500ffffffff10000700ffffffff20000500ffffffff",
  "hex",
);
const BASE: TarSpec[] = [
  { name: "./", type: "5", mode: 0o751, uid: 7, gid: 8, pax: { "SCHILY.xattr.user.root": "r" } },
  { name: "tmp/", type: "5", mode: 0o1777 },
  { name: "home/u/", type: "5", mode: 0o750, uid: 1000, gid: 1000 },
  { name: "home/u/.config/", type: "5", mode: 0o700, uid: 1000, gid: 1000 },
  { name: "acl/", type: "5", mode: 0o775, pax: { "SCHILY.xattr.system.posix_acl_access": ACL } },
  { name: "usr/lib/", type: "5", mode: 0o711, uid: 3 },
  { name: "lib", type: "2", linkName: "/usr/lib" },
  { name: "file", data: "no directory" },
];
const PATHS = [".", "tmp", "home/u", "home/u/.config"];
const SAME = ["751 7:8", "1777 0:0", "750 1000:1000", "700 1000:1000"];

test("they have mode, owner and attributes of the layer below, the root too, however many layers are between", async () => {
  const image = await node.store.images.pull(
    await push(
      BASE,
      [{ name: "tmp/a", data: "a" }],
      [{ name: "other", data: "o" }],
      [
        { name: "tmp/b", data: "b" },
        { name: "home/u/.config/new/c", data: "c" },
        { name: "acl/d", data: "d" },
      ],
    ),
  );
  expect(inLayer(image, 3, [...PATHS, "home/u/.config/new"])).toEqual([...SAME, "755 0:0"]);
  expect(inLayer(image, 1, [".", "tmp"])).toEqual(["751 7:8", "1777 0:0"]);
  const top = directoryOf(image, 3);
  expect(Buffer.from(getXattr(join(top, "acl"), "system.posix_acl_access") ?? [])).toEqual(ACL);
  expect(Buffer.from(getXattr(top, "user.root") ?? []).toString()).toBe("r");
  expect(await check()).toEqual(whole(4));
});

test("what a layer says itself counts, also when it says it later", async () => {
  const image = await node.store.images.pull(
    await push(BASE, [
      { name: "tmp/a", data: "a" },
      { name: "home/u/b", data: "b" },
      { name: "home/u/", type: "5", mode: 0o711, uid: 5 },
      { name: "./", type: "5", mode: 0o700 },
    ]),
  );
  expect(inLayer(image, 1, [".", "tmp", "home/u"])).toEqual(["700 0:0", "1777 0:0", "711 5:0"]);
  expect(getXattr(directoryOf(image, 1), "user.root")).toBeUndefined();
  expect(await check()).toEqual(whole(2));
});

test("what is hidden is not inherited: by whiteouts, opaque directories, files and symlinks in between", async () => {
  const image = await node.store.images.pull(
    await push(
      BASE,
      [
        { name: ".wh.tmp" },
        { name: "home/.wh..wh..opq" },
        { name: "usr", type: "2", linkName: "/" },
        { name: "acl", data: "a file now" },
      ],
      [
        { name: "tmp/a", data: "a" },
        { name: "home/u/b", data: "b" },
        { name: "usr/lib/c", data: "c" },
        { name: "acl/d", data: "d" },
        { name: "file/e", data: "e" },
        { name: "lib/f", data: "f" },
      ],
    ),
  );
  const paths = ["tmp", "home", "home/u", "usr", "usr/lib", "acl", "file", "lib"];
  expect(inLayer(image, 2, paths)).toEqual(paths.map(() => "755 0:0"));
  expect(inLayer(image, 1, ["home"])).toEqual(["755 0:0"]);
  expect(await check()).toEqual(whole(3));
});

test("an opaque directory keeps its own attributes and hides those below it; a new one has none", async () => {
  const image = await node.store.images.pull(
    await push(BASE, [
      { name: "home/u/.wh..wh..opq" },
      { name: "home/u/.config/c", data: "c" },
      { name: ".wh.tmp" },
      { name: "tmp/a", data: "a" },
    ]),
  );
  expect(inLayer(image, 1, ["home/u", "home/u/.config", "tmp"])).toEqual([
    "750 1000:1000",
    "755 0:0",
    "755 0:0",
  ]);
  for (const path of ["home/u", "tmp"]) {
    expect(getXattr(join(directoryOf(image, 1), path), "trusted.overlay.opaque")).toBeDefined();
  }
  expect(await check()).toEqual(whole(2));
});

test("a directory that a layer reaches by its own symlink is that of the real path", async () => {
  const image = await node.store.images.pull(
    await push(
      [{ name: "usr/lib/deep/", type: "5", mode: 0o711, uid: 3 }],
      [
        { name: "usr/lib/", type: "5" },
        { name: "lib", type: "2", linkName: "/usr/lib" },
        { name: "lib/deep/x", data: "x" },
      ],
    ),
  );
  expect(inLayer(image, 1, ["usr/lib/deep"])).toEqual(["711 3:0"]);
  expect(await check()).toEqual(whole(2));
});

test("a directory that no layer below has is as the one that it is in makes it", async () => {
  const image = await node.store.images.pull(
    await push(
      [
        { name: "group/", type: "5", mode: 0o2775, gid: 5 },
        { name: "group/new/x", data: "x" },
      ],
      [{ name: "group/other/x", data: "x" }],
    ),
  );
  expect(inLayer(image, 0, ["group", "group/new"])).toEqual(["2775 0:5", "2755 0:5"]);
  expect(inLayer(image, 1, ["group"])).toEqual(["2775 0:5"]);
  expect(await check()).toEqual(whole(2));
});

test("attributes of overlayfs that a layer below has are not handed on", async () => {
  const image = await node.store.images.pull(
    await push([{ name: "d/.wh..wh..opq" }], [{ name: "d/x", data: "x" }]),
  );
  expect(getXattr(join(directoryOf(image, 0), "d"), "trusted.overlay.opaque")).toBeDefined();
  expect(getXattr(join(directoryOf(image, 1), "d"), "trusted.overlay.opaque")).toBeUndefined();
});

test("a layer that is repaired, imported, or pulled with its base there has the same", async () => {
  const name = await push(BASE, [
    { name: "tmp/a", data: "a" },
    { name: "home/u/.config/b", data: "b" },
  ]);
  const image = await node.store.images.pull(name);
  rmSync(join(directoryOf(image, 1), "tmp"), { recursive: true });
  expect(await check(true)).toMatchObject({ damaged: [{ repaired: true }] });
  expect(inLayer(image, 1, PATHS)).toEqual(SAME);
  expect(await check()).toEqual(whole(2));

  const directory = mkdtempSync(join(tmpdir(), "crib-inherit-"));
  try {
    const archive = join(directory, "a.tar");
    skopeo(name.replace(node.proxy.host, node.registry.host), `docker-archive:${archive}:in/it:1`);
    await node.store.images.remove(image.id);
    expect(node.store.layerDirectories()).toEqual([]);
    const [imported] = await node.store.images.import(archive);
    const found = node.store.images.list().find(({ id }) => id === image.id);
    expect(imported).toBeDefined();
    expect(found && inLayer(found, 1, PATHS)).toEqual(SAME);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("layers of one base that are pulled at once by several images all have it", async () => {
  const big = { name: "big", data: Buffer.alloc(5_000_000, "x") };
  const names = await Promise.all(
    [1, 2, 3].map((n) => push([...BASE, big], [{ name: `tmp/${n}`, data: "x" }])),
  );
  const pulled = await Promise.all(names.map((name) => node.store.images.pull(name)));
  for (const image of pulled) expect(inLayer(image, 1, [".", "tmp"])).toEqual(SAME.slice(0, 2));
  expect(await check()).toEqual(whole(4));
});

test("a layer below that fails takes those with it that wait, and nothing is left", async () => {
  const name = await push(
    BASE,
    [{ name: "tmp/a", data: "a" }],
    [{ name: "../escapes", data: "x" }],
  );
  await expect(node.store.images.pull(name)).rejects.toMatchObject({ code: "FailedPrecondition" });
  expect(node.store.layerDirectories()).toEqual([]);
  const upside = await push([{ name: "../escapes", data: "x" }], [{ name: "tmp/a", data: "a" }]);
  await expect(node.store.images.pull(upside)).rejects.toMatchObject({
    code: "FailedPrecondition",
  });
  expect(node.store.layerDirectories()).toEqual([]);
  expect(readdirSync(join(node.store.root, "layer-index"))).toEqual([]);
});

test("a list of files that lies about a path changes nothing outside of the layer", async () => {
  const image = await node.store.images.pull(await push(BASE, [{ name: "tmp/a", data: "a" }]));
  const layer = directoryOf(image, 1);
  const outside = mkdtempSync(join(tmpdir(), "crib-inherit-"));
  try {
    execFileSync("ln", ["-s", outside, join(layer, "home")]);
    const index = join(outside, "index");
    const lines = ["home", "../../..", "tmp/../../x"].map((path) =>
      JSON.stringify(["+", path, { kind: "directory", mode: 0, uid: 0, gid: 0, implied: true }]),
    );
    await Bun.write(index, `${lines.join("\n")}\n`);
    const child = Bun.spawnSync(
      [...EXECUTABLE, "inherit-directories", "--layer", layer, "--index", index],
      { stdin: Buffer.from(directoryOf(image, 0)), env: { SQLITE_TMPDIR: outside } },
    );
    expect([look(outside), child.exitCode === 0]).toEqual(["700 0:0", false]);
  } finally {
    rmSync(outside, { recursive: true });
  }
});
