import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  linkSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { detectCgroups } from "../../src/linux/cgroup.ts";
import { type DiskUsage, DiskUsages, treeMeasure } from "../../src/stats/disk-usage.ts";
import { StatsReader } from "../../src/stats/reader.ts";
import { removeTree } from "../../src/storage/remove-tree.ts";
import { nest } from "../fixtures/nest.ts";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "crib-usage-"));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function allocated(...paths: string[]): bigint {
  return paths.reduce((sum, path) => sum + BigInt(statSync(path).blocks) * 512n, 0n);
}

/** The front door from source: large trees are measured by a process of their own. */
const executable = [process.execPath, join(import.meta.dir, "../../src/main.ts")];

describe.each(["small", "large"] as const)("a tree that is measured as a %s one", (size) => {
  const measure = async () => {
    const usage = await treeMeasure(executable)[size](root);
    if (usage === "large") throw new Error("is a large one");
    return usage;
  };

  test("has blocks and inodes of files and directories, the root included", async () => {
    mkdirSync(join(root, "a/b"), { recursive: true });
    await Bun.write(join(root, "a/b/file"), "x".repeat(100_000));
    await Bun.write(join(root, "small"), "x");
    const usage = await measure();
    const all = ["", "a", "a/b", "a/b/file", "small"].map((name) => join(root, name));
    expect(usage).toMatchObject({ bytes: allocated(...all), inodes: 5n });
    expect(usage?.bytes).toBeGreaterThanOrEqual(100_000n);
  }, 60_000);

  test("has a file with several links once, a link's target not at all", async () => {
    await Bun.write(join(root, "file"), "x".repeat(50_000));
    await Bun.write(join(root, "pair"), "x".repeat(10_000));
    for (let i = 0; i < 200; i++) linkSync(join(root, "file"), join(root, `same${i}`));
    linkSync(join(root, "pair"), join(root, "other"));
    symlinkSync("/usr", join(root, "link"));
    const usage = await measure();
    expect(usage?.inodes).toBe(4n);
    expect(usage?.bytes).toBe(allocated(root, join(root, "file"), join(root, "pair")));
  }, 60_000);

  test("has names that are no UTF-8", async () => {
    const file = Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0xfe])]);
    mkdirSync(file);
    writeFileSync(Buffer.concat([file, Buffer.from("/x")]), "x".repeat(50_000));
    const usage = await measure();
    expect(usage?.bytes).toBeGreaterThan(50_000n);
    expect(usage?.inodes).toBe(3n);
  }, 60_000);

  test("is not there", async () => {
    rmSync(root, { recursive: true });
    expect(await measure()).toBeUndefined();
  }, 60_000);
});

describe("a tree that is large", () => {
  test("is one with many entries, in one directory or in many", async () => {
    const { small, large } = treeMeasure(executable);
    for (let i = 0; i < 30; i += 1) {
      for (let j = 0; j < 16; j += 1) mkdirSync(join(root, `${i}/${j}`), { recursive: true });
    }
    expect(await small(root)).toMatchObject({ inodes: 511n });
    writeFileSync(join(root, "0/0/one"), "");
    writeFileSync(join(root, "0/0/two"), "");
    expect(await small(root)).toBe("large");
    expect(await large(root)).toMatchObject({ inodes: 513n });
    expect(await new DiskUsages({ small, large }).usage(root, 60_000)).toMatchObject({
      inodes: 513n,
    });
  }, 60_000);

  test("may be deeper than a path can say", async () => {
    nest(root, 2_100);
    writeFileSync(join(root, "beside"), "x".repeat(50_000));
    const usage = await new DiskUsages(treeMeasure(executable)).usage(root, 60_000);
    expect(usage?.inodes).toBe(2_102n);
    expect(usage?.bytes).toBeGreaterThan(50_000n);
    await removeTree(root);
  }, 60_000);
});

describe("DiskUsages", () => {
  const usage = (bytes: bigint): DiskUsage => ({ bytes, inodes: 1n, timestampNs: 1n });

  const never = () => Promise.reject(new Error("there is no large tree"));

  /** A measure that ends when the test says so. */
  function manual() {
    const walks: Array<PromiseWithResolvers<DiskUsage | undefined>> = [];
    const measure = () => {
      const walk = Promise.withResolvers<DiskUsage | undefined>();
      walks.push(walk);
      return walk.promise;
    };
    return { walks, measure: { small: measure, large: never } };
  }

  test("a fresh figure is not measured again, and questions at once share a walk", async () => {
    let walks = 0;
    const small = async () => usage(BigInt(++walks));
    const usages = new DiskUsages({ small, large: never }, 1_000_000);
    const both = await Promise.all([usages.usage("/a", 10_000), usages.usage("/a", 10_000)]);
    expect(both).toEqual([usage(1n), usage(1n)]);
    expect(await usages.usage("/a", 10_000)).toEqual(usage(1n));
    expect(walks).toBe(1);
    usages.forget("/a");
    expect(await usages.usage("/a", 10_000)).toEqual(usage(2n));
  });

  test("a walk that takes too long gives no figure, and its result comes later", async () => {
    const { walks, measure } = manual();
    const usages = new DiskUsages(measure, 1_000_000);
    expect(await usages.usage("/a", 1)).toBeUndefined();
    walks[0]?.resolve(usage(7n));
    expect(await usages.usage("/a", 10_000)).toEqual(usage(7n));
    expect(walks).toHaveLength(1);
  });

  test("an old figure is told while a new walk runs", async () => {
    const { walks, measure } = manual();
    const usages = new DiskUsages(measure, 0);
    const first = usages.usage("/a", 10_000);
    await Bun.sleep(0);
    walks[0]?.resolve(usage(1n));
    expect(await first).toEqual(usage(1n));
    while (walks.length < 2) {
      expect(await usages.usage("/a", 10_000)).toEqual(usage(1n));
      await Bun.sleep(1);
    }
    walks[1]?.resolve(usage(2n));
    while ((await usages.usage("/a", 10_000))?.bytes !== 2n) await Bun.sleep(1);
  });

  test("walks run one after the other, and a failed one does not stop the next", async () => {
    const { walks, measure } = manual();
    const usages = new DiskUsages(measure, 1_000_000);
    const first = usages.usage("/a", 10_000);
    const second = usages.usage("/b", 10_000);
    await Bun.sleep(0);
    expect(walks).toHaveLength(1);
    walks[0]?.reject(new Error("EIO"));
    await expect(first).rejects.toThrow("EIO");
    await Bun.sleep(0);
    walks[1]?.resolve(usage(3n));
    expect(await second).toEqual(usage(3n));
  });

  test("a small tree does not wait for a large one", async () => {
    const { promise, resolve } = Promise.withResolvers<DiskUsage>();
    const small = async (root: string) => (root === "/small" ? usage(1n) : ("large" as const));
    const usages = new DiskUsages({ small, large: () => promise }, 1_000_000);
    const large = usages.usage("/large", 10_000);
    expect(await usages.usage("/small", 10_000)).toEqual(usage(1n));
    resolve(usage(2n));
    expect(await large).toEqual(usage(2n));
  });
});

describe("StatsReader", () => {
  test("a layer that was only ever asked for in a total is forgotten with its container", async () => {
    const measured: string[] = [];
    const measure = async (directory: string) => {
      measured.push(directory);
      return { bytes: 7n, inodes: 2n, timestampNs: 1n };
    };
    const usages = new DiskUsages({ small: measure, large: measure }, 1_000_000);
    const options = { host: detectCgroups(), storageRoot: "/", executable: [] };
    const reader = new StatsReader(options, usages);
    const layers = ["gone", "lives"].map((id) => ({ id, layerDirectory: `/${id}` }));
    expect(await reader.total(layers)).toEqual({ bytes: 14n, inodes: 4n });
    reader.retain(new Set(["lives"]));
    await reader.total(layers);
    // Measured anew: nothing was remembered of it.
    expect(measured).toEqual(["/gone", "/lives", "/gone"]);
  });
});
