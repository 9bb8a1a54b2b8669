import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mknod, setXattr } from "../../src/linux/file.ts";
import { isMountPoint, mount } from "../../src/linux/mount.ts";
import { openDatabase } from "../../src/state/database.ts";
import { ContainerStorage } from "../../src/storage/container-storage.ts";
import { LayerStore } from "../../src/storage/layers.ts";
import { unmount } from "../fixtures/image-store.ts";
import { nest } from "../fixtures/nest.ts";

let base: string;
let database: ReturnType<typeof openDatabase>;
let layers: LayerStore;
let storage: ContainerStorage;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "crib-storage-"));
  database = openDatabase(join(base, "crib.db"));
  layers = new LayerStore({ root: base, database });
  storage = new ContainerStorage({ root: base, database, unmount });
});
afterEach(async () => {
  for (const id of storage.list()) await storage.remove(id);
  database.close();
  rmSync(base, { recursive: true });
});

/** Makes a layer; `fill` gets its directory. */
function addLayer(chainId: string, fill: (directory: string) => void): string {
  const directory = layers.stage();
  fill(join(layers.directory, directory));
  layers.commit({ chainId, diffId: chainId, directory, bytes: 0, inodes: 1 }, ["test"]);
  return chainId;
}
const withFile = (name: string, data: string) => (directory: string) =>
  writeFileSync(join(directory, name), data);

test("the rootfs shows all layers, writes go to diff only", async () => {
  const chain = [addLayer("a", withFile("one", "1")), addLayer("b", withFile("two", "2"))];
  const { rootfs } = await storage.prepare("c1", chain);
  expect(readdirSync(rootfs).sort()).toEqual(["one", "two"]);
  writeFileSync(join(rootfs, "one"), "changed");
  expect(
    readFileSync(join(layers.directory, layers.get("a")?.directory ?? "", "one"), "utf8"),
  ).toBe("1");
  expect(readdirSync(join(storage.directory, "c1/diff"))).toEqual(["one"]);
});

test("whiteouts and opaque directories of a layer hide what lies below", async () => {
  const lower = addLayer("lower", (directory) => {
    mkdirSync(join(directory, "dir"));
    writeFileSync(join(directory, "dir/hidden"), "x");
    writeFileSync(join(directory, "gone"), "x");
    writeFileSync(join(directory, "kept"), "x");
  });
  const upper = addLayer("upper", (directory) => {
    mknod(join(directory, "gone"), 0o020000, 0);
    mkdirSync(join(directory, "dir"));
    setXattr(join(directory, "dir"), "trusted.overlay.opaque", Buffer.from("y"));
    writeFileSync(join(directory, "dir/own"), "x");
  });
  const { rootfs } = await storage.prepare("c1", [lower, upper]);
  expect(readdirSync(rootfs).sort()).toEqual(["dir", "kept"]);
  expect(readdirSync(join(rootfs, "dir"))).toEqual(["own"]);
});

test("the rootfs has the mode of the image's root; the store is closed to others than root", async () => {
  const chain = [
    addLayer("a", (directory) => chmodSync(directory, 0o755)),
    addLayer("b", (directory) => chmodSync(directory, 0o751)),
  ];
  const { rootfs } = await storage.prepare("c1", chain);
  const mode = (path: string) => statSync(path).mode & 0o7777;
  expect(mode(rootfs)).toBe(0o751);
  expect([mode(layers.directory), mode(storage.directory)]).toEqual([0o700, 0o700]);
});

test("130 layers fit, with a root of 100 characters", async () => {
  const root = join(base, "r".repeat(100));
  const deepLayers = new LayerStore({ root, database });
  const deep = new ContainerStorage({ root, database, unmount });
  const chain = Array.from({ length: 130 }, (_, n) => {
    const directory = deepLayers.stage();
    writeFileSync(join(deepLayers.directory, directory, `file${n}`), "x");
    deepLayers.commit({ chainId: `l${n}`, diffId: "d", directory, bytes: 0, inodes: 1 }, ["test"]);
    return `l${n}`;
  });
  const { rootfs } = await deep.prepare("f".repeat(64), chain);
  expect(readdirSync(rootfs)).toHaveLength(130);
  await deep.remove("f".repeat(64));
});

test("an image without layers gives an empty rootfs", async () => {
  const { rootfs } = await storage.prepare("c1", []);
  writeFileSync(join(rootfs, "a"), "x");
  expect(readdirSync(rootfs)).toEqual(["a"]);
});

test("a root with characters that overlayfs treats specially works", async () => {
  const root = join(base, "a,b:c\\d e");
  const odd = new ContainerStorage({ root, database, unmount });
  const { rootfs } = await odd.prepare("c1", []);
  expect(isMountPoint(rootfs)).toBe(true);
  await odd.remove("c1");
});

test("mount and unmount may be repeated, and what was written stays", async () => {
  const chain = [addLayer("a", withFile("one", "1"))];
  const { rootfs } = await storage.prepare("c1", chain);
  writeFileSync(join(rootfs, "written"), "x");
  storage.mount("c1", chain);
  await storage.unmount("c1");
  expect(isMountPoint(rootfs)).toBe(false);
  await storage.unmount("c1");
  storage.mount("c1", chain);
  storage.mount("c1", chain);
  expect(readFileSync(join(rootfs, "written"), "utf8")).toBe("x");
  await storage.unmount("c1");
  expect(isMountPoint(rootfs)).toBe(false);
});

test("mounts on top of each other are all unmounted", async () => {
  const { rootfs } = await storage.prepare("c1", []);
  mount({ source: "tmpfs", target: rootfs, type: "tmpfs" });
  await storage.remove("c1");
  expect(existsSync(rootfs)).toBe(false);
});

test("a busy rootfs is detached, and its files are deleted without touching the layer", async () => {
  const chain = [addLayer("a", withFile("one", "1"))];
  const { rootfs } = await storage.prepare("c1", chain);
  const holder = Bun.spawn(["sleep", "60"], { cwd: rootfs });
  try {
    await storage.remove("c1");
    expect(readdirSync(storage.directory)).toEqual([]);
    expect(existsSync(join(layers.directory, layers.get("a")?.directory ?? "", "one"))).toBe(true);
  } finally {
    holder.kill();
    await holder.exited;
  }
}, 20_000);

test("prepare of a layer that is gone is NotFound and leaves nothing", async () => {
  const chain = [addLayer("a", () => {})];
  await expect(storage.prepare("c1", [...chain, "missing"])).rejects.toMatchObject({
    code: "NotFound",
  });
  expect(readdirSync(storage.directory)).toEqual([]);
  expect(storage.list()).toEqual([]);
});

test("prepare of a container that is there is AlreadyExists and does not hurt it", async () => {
  const { rootfs } = await storage.prepare("c1", []);
  writeFileSync(join(rootfs, "a"), "x");
  await expect(storage.prepare("c1", [])).rejects.toMatchObject({ code: "AlreadyExists" });
  expect(readdirSync(rootfs)).toEqual(["a"]);
});

test("a layer lives as long as one of its holders", async () => {
  const chain = [addLayer("a", withFile("one", "1"))];
  await storage.prepare("c1", chain);
  await storage.prepare("c2", chain);
  await layers.release("test");
  await storage.remove("c1");
  expect(layers.get("a")).toBeDefined();
  await storage.remove("c2");
  expect(layers.get("a")).toBeUndefined();
  expect(readdirSync(layers.directory)).toEqual([]);
});

test("what a container has nested deeper than a path can say is removed with it", async () => {
  const { rootfs } = await storage.prepare("c1", []);
  nest(rootfs, 5_000);
  await storage.remove("c1");
  expect(readdirSync(storage.directory)).toEqual([]);
});

test.each(["", "..", "a/b", ".", "../x", "a\0b"])("the container id %j is refused", async (id) => {
  await expect(storage.prepare(id, [])).rejects.toMatchObject({ code: "InvalidArgument" });
});

test("list knows directories and holds", async () => {
  await storage.prepare("c1", [addLayer("a", () => {})]);
  mkdirSync(join(storage.directory, "stray"));
  layers.hold("container/held", "a");
  expect(storage.list().sort()).toEqual(["c1", "held", "stray"]);
});
