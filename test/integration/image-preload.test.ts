/** The watched directory: what is imported from it, when, and for how long it is pinned. */
import { afterAll, afterEach, beforeAll, beforeEach, expect, spyOn, test } from "bun:test";
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { zstdCompressSync } from "node:zlib";
import { Preload, type PreloadStore } from "../../src/image/preload.ts";
import { log } from "../../src/observe/log.ts";
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
    forgetArchive: (path) => store.images.forgetArchive(path),
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

const FOUR = ["a", "b", "c", "d"] as const;
const nameOf = (letter: string) => `example.com/${letter}:1`;
const pinned = (images: Pick<TestStore["images"], "find"> = store.images) =>
  FOUR.filter((letter) => images.find(nameOf(letter))?.pinned === true).join("");

/** A layout of an image for each of the letters, and the blob that only the last of them needs. */
async function layoutOf(directory: string, letters: string): Promise<string> {
  let last = "";
  mkdirSync(directory, { recursive: true });
  for (const letter of letters) {
    const layers = [[{ name: letter, data: `only in ${letter}` }]];
    const pushed = await pushImage(registry, `several-${letter}:1`, { layers });
    skopeo(pushed.name, `oci:${directory}:${nameOf(letter)}`);
    last = pushed.layers[0]?.digest.replace("sha256:", "blobs/sha256/") ?? "";
  }
  return last;
}

test("an archive of several images is imported to its end, also when a part of it comes late", async () => {
  const directory = join(store.directory, "preload");
  const target = join(directory, "layout");
  const late = await layoutOf(target, "ab");
  renameSync(join(target, late), at("late-blob"));
  const preload = new Preload(directory, store.images, { quietMs: 10, firstRetryMs: 1e9 });
  await preload.start();
  try {
    expect(pinned()).toBe("a");
    renameSync(at("late-blob"), join(target, late));
    await until("the second image", () => pinned() === "ab");
  } finally {
    preload.stop();
  }
});

test("an import that a crash cut off between two images goes on when the daemon starts again", async () => {
  const directory = join(store.directory, "preload");
  const target = join(directory, "layout");
  const late = await layoutOf(target, "ab");
  renameSync(join(target, late), at("late-blob"));
  await new Preload(directory, store.images).scan();
  expect(pinned()).toBe("a");
  renameSync(at("late-blob"), join(target, late));
  const reopened = await store.reopen();
  await new Preload(directory, reopened).scan();
  expect(pinned(reopened)).toBe("ab");
});

test("what a changed archive held before stays pinned until all that it holds now is imported", async () => {
  const directory = join(store.directory, "preload");
  const target = join(directory, "layout");
  await layoutOf(target, "ab");
  const preload = new Preload(directory, store.images, { quietMs: 10, firstRetryMs: 1e9 });
  await preload.start();
  try {
    expect(pinned()).toBe("ab");
    const late = await layoutOf(at("changed"), "cd");
    renameSync(join(at("changed"), late), at("late-blob"));
    rmSync(target, { recursive: true });
    renameSync(at("changed"), target);
    await until("the third image", () => pinned() === "abc");
    renameSync(at("late-blob"), join(target, late));
    await until("the fourth image alone with the third", () => pinned() === "cd");
  } finally {
    preload.stop();
  }
});

test("a directory that is gone is not looked for again and again while an import has yet to be retried", async () => {
  const directory = join(store.directory, "preload");
  mkdirSync(directory);
  writeFileSync(join(directory, "broken.tar"), "no archive");
  let scans = 0;
  const counting: PreloadStore = {
    import: (path, options) => store.images.import(path, options),
    archiveStamps: (path) => {
      scans += 1;
      return store.images.archiveStamps(path);
    },
    forgetArchive: (path) => store.images.forgetArchive(path),
  };
  const preload = new Preload(directory, counting, { quietMs: 200, firstRetryMs: 1 });
  await preload.start();
  try {
    rmSync(directory, { recursive: true });
    const before = scans;
    await until("a scan", () => scans > before);
    await Bun.sleep(1000);
    expect(scans - before).toBeLessThan(20);
  } finally {
    preload.stop();
  }
});

test("an import by hand takes no pin from what the watched directory has", async () => {
  const directory = join(store.directory, "preload");
  const target = join(directory, "one.tar");
  mkdirSync(directory);
  cpSync(at("oci.tar"), target);
  const preload = new Preload(directory, store.images);
  await preload.scan();
  const [image] = await store.images.import(target);
  expect(image?.pinned).toBe(true);
  rmSync(target);
  await preload.scan();
  expect(store.images.find("example.com/one:1")?.pinned).toBe(false);
});

test("a damaged row of one archive keeps none from being imported, and is written anew", async () => {
  const directory = join(store.directory, "preload");
  mkdirSync(directory);
  cpSync(at("oci.tar"), join(directory, "one.tar"));
  await new Preload(directory, store.images).scan();
  store.database.query("UPDATE image_sources SET record = 'damaged'").run();
  cpSync(at("docker.tar"), join(directory, "two.tar"));
  const reopened = await store.reopen();
  expect(reopened.find("example.com/one:1")?.pinned).toBe(true);
  const errors = spyOn(log(), "error");
  try {
    await new Preload(directory, reopened).scan();
    expect(errors).not.toHaveBeenCalled();
  } finally {
    errors.mockRestore();
  }
  expect([...reopened.archiveStamps(directory).values()]).not.toContain("");
  expect(reopened.archiveStamps(directory).size).toBe(2);
  expect(reopened.find("example.com/one:1")?.pinned).toBe(true);
});

test("nothing is looked at again and again when a broken archive is replaced by the one before", async () => {
  const directory = join(store.directory, "preload");
  const target = join(directory, "one.tar");
  mkdirSync(directory);
  cpSync(at("oci.tar"), target);
  const { atime, mtime } = statSync(target);
  utimesSync(target, atime, mtime);
  let scans = 0;
  let failures = 0;
  const counting: PreloadStore = {
    import: (path, options) =>
      store.images.import(path, options).finally(() => {
        failures += 1;
      }),
    archiveStamps: (path) => {
      scans += 1;
      return store.images.archiveStamps(path);
    },
    forgetArchive: (path) => store.images.forgetArchive(path),
  };
  const preload = new Preload(directory, counting, { quietMs: 10, firstRetryMs: 300 });
  await preload.start();
  try {
    writeFileSync(target, "broken");
    await until("the failure", () => failures === 2);
    cpSync(at("oci.tar"), target);
    utimesSync(target, atime, mtime);
    const before = scans;
    await until("a scan", () => scans > before);
    await Bun.sleep(1000);
    expect(scans - before).toBeLessThan(20);
    expect(isThere()).toBe(true);
  } finally {
    preload.stop();
  }
});
