/** The watched directory: what is imported from it, when, and for how long it is pinned. */
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "bun:test";
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { zstdCompressSync } from "node:zlib";
import { Preload, type PreloadStore } from "../../src/image/preload.ts";
import { makeArchives, skopeo } from "../fixtures/archives.ts";
import { openTestStore, type TestStore } from "../fixtures/image-store.ts";
import { type Pushed, pushImage, type Registry, startRegistry } from "../fixtures/registry.ts";
import { until } from "../fixtures/until.ts";

let registry: Registry;
let archives: string;
let one: Pushed;
let store: TestStore;
const at = (name: string) => join(archives, name);

beforeAll(async () => {
  registry = await startRegistry();
  ({ directory: archives, one } = await makeArchives(registry));
  writeFileSync(at("docker.tar.zst"), zstdCompressSync(readFileSync(at("docker.tar"))));
});
beforeEach(async () => {
  store = await openTestStore();
});
afterEach(() => store.close());
afterAll(async () => {
  await registry.stop();
  rmSync(archives, { recursive: true });
});

test("archives of the watched directory are imported and pinned, at start and when they appear", async () => {
  const directory = join(store.directory, "preload");
  mkdirSync(directory);
  cpSync(at("docker.tar.zst"), join(directory, "one.tar.zst"));
  writeFileSync(join(directory, "broken.tar"), "no archive");
  writeFileSync(join(directory, ".partial"), "half a copy");
  const preload = new Preload(directory, store.images, { quietMs: 50 });
  await preload.start();
  try {
    expect(store.images.find("example.com/one:1")).toMatchObject({ id: one.id, pinned: true });
    await store.images.prune(() => false);
    expect(store.images.list()).toHaveLength(1);
    const two = await pushImage(registry, "late:1", { layers: [[{ name: "e", data: "late" }]] });
    skopeo(two.name, `oci-archive:${at("late.tar")}:example.com/late:1`);
    renameSync(at("late.tar"), join(directory, "late.tar"));
    await until("late.tar", () => store.images.find("example.com/late:1")?.pinned === true);
    // A broken one is tried again when it changes.
    cpSync(at("oci.tar"), join(directory, "broken.tar"));
    await until("broken.tar", () => store.images.archiveStamps(directory).size === 3);
    rmSync(join(directory, "late.tar"));
    await until("unpin", () => store.images.find("example.com/late:1")?.pinned === false);
    await store.images.prune(() => false);
    expect(store.images.list()).toHaveLength(1);
  } finally {
    preload.stop();
  }
  const imported: string[] = [];
  const reopened = await store.reopen();
  const again = new Preload(directory, {
    import: async (path) => {
      imported.push(path);
      return [];
    },
    archiveStamps: (path) => reopened.archiveStamps(path),
    forgetArchive: () => undefined,
  });
  await again.scan();
  expect(imported).toEqual([]);
  expect(reopened.list().map(({ pinned }) => pinned)).toEqual([true]);
});

test("a directory that is copied slowly is imported when it is whole; until then its predecessor is pinned", async () => {
  const directory = join(store.directory, "preload");
  const target = join(directory, "layout");
  mkdirSync(directory);
  cpSync(at("layout"), target, { recursive: true });
  const preload = new Preload(directory, store.images, { quietMs: 10 });
  await preload.start();
  try {
    expect(store.images.find("example.com/one:1")?.pinned).toBe(true);
    const next = await pushImage(registry, "next:1", { layers: [[{ name: "n", data: "next" }]] });
    skopeo(next.name, `oci:${at("next")}:example.com/next:1`);
    // The index first: it changes the stamp, and what it names is not there yet.
    cpSync(join(at("next"), "index.json"), join(target, "index.json"));
    await preload.scan();
    expect(store.images.find("example.com/one:1")?.pinned).toBe(true);
    expect(store.images.find("example.com/next:1")).toBeUndefined();
    cpSync(join(at("next"), "blobs"), join(target, "blobs"), { recursive: true });
    await until("the whole layout", () => store.images.find("example.com/next:1")?.pinned === true);
    await until("unpin", () => store.images.find("example.com/one:1")?.pinned === false);
  } finally {
    preload.stop();
  }
});

test("a layout that is written in its place is imported when its last file is there, without a retry", async () => {
  const directory = join(store.directory, "preload");
  const target = join(directory, "layout");
  let failures = 0;
  const counting: PreloadStore = {
    import: (path, options) =>
      store.images.import(path, options).catch((error: unknown) => {
        failures += 1;
        throw error;
      }),
    archiveStamps: (path) => store.images.archiveStamps(path),
    forgetArchive: (path, kept) => store.images.forgetArchive(path, kept),
  };
  const never = 1e9;
  const preload = new Preload(directory, counting, { quietMs: 20, firstRetryMs: never });
  await preload.start();
  try {
    const tried = async (what: string, write: () => void) => {
      const before = failures;
      write();
      await until(`a try with ${what}`, () => failures > before || isThere());
    };
    const copy = (name: string) => cpSync(join(at("layout"), name), join(target, name));
    await tried("the index", () => {
      mkdirSync(target);
      copy("index.json");
    });
    await tried("blobs", () => mkdirSync(join(target, "blobs")));
    await tried("blobs/sha256", () => mkdirSync(join(target, "blobs/sha256")));
    for (const blob of readdirSync(join(at("layout"), "blobs/sha256"))) {
      await tried(blob, () => copy(`blobs/sha256/${blob}`));
    }
    await until("the image", isThere);
    expect(store.images.find("example.com/one:1")).toMatchObject({ id: one.id, pinned: true });
  } finally {
    preload.stop();
  }
}, 60_000);
const isThere = () => store.images.find("example.com/one:1") !== undefined;
