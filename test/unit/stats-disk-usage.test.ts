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
import { type DiskUsage, DiskUsages, measureDiskUsage } from "../../src/stats/disk-usage.ts";
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

describe("measureDiskUsage", () => {
  test("counts blocks and inodes of files and directories, the root included", async () => {
    mkdirSync(join(root, "a/b"), { recursive: true });
    await Bun.write(join(root, "a/b/file"), "x".repeat(100_000));
    await Bun.write(join(root, "small"), "x");
    const usage = await measureDiskUsage(root);
    const all = ["", "a", "a/b", "a/b/file", "small"].map((name) => join(root, name));
    expect(usage).toMatchObject({ bytes: allocated(...all), inodes: 5n });
    expect(usage?.bytes).toBeGreaterThanOrEqual(100_000n);
  });

  test("a file with two links counts once, a link's target not at all", async () => {
    await Bun.write(join(root, "file"), "x".repeat(50_000));
    linkSync(join(root, "file"), join(root, "same"));
    symlinkSync("/usr", join(root, "link"));
    const usage = await measureDiskUsage(root);
    expect(usage?.inodes).toBe(3n);
    expect(usage?.bytes).toBe(allocated(root, join(root, "file")));
  });

  test("names that are no UTF-8 count, and what is too deep for a path does not fail the rest", async () => {
    const file = Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0xfe])]);
    writeFileSync(file, "x".repeat(50_000));
    nest(root, 3_000);
    const usage = await measureDiskUsage(root);
    expect(usage?.bytes).toBeGreaterThan(50_000n);
    expect(usage?.inodes).toBeGreaterThan(1_500n);
    await removeTree(root);
  }, 30_000);

  test("a tree of many entries is walked to its end", async () => {
    for (let i = 0; i < 30; i += 1) {
      for (let j = 0; j < 10; j += 1) mkdirSync(join(root, `${i}/${j}`), { recursive: true });
    }
    expect((await measureDiskUsage(root))?.inodes).toBe(331n);
  });

  test("a missing tree has no usage", async () => {
    expect(await measureDiskUsage(join(root, "missing"))).toBeUndefined();
  });
});

describe("DiskUsages", () => {
  const usage = (bytes: bigint): DiskUsage => ({ bytes, inodes: 1n, timestampNs: 1n });

  /** A measure that ends when the test says so. */
  function manual() {
    const walks: Array<PromiseWithResolvers<DiskUsage | undefined>> = [];
    const measure = () => {
      const walk = Promise.withResolvers<DiskUsage | undefined>();
      walks.push(walk);
      return walk.promise;
    };
    return { walks, measure };
  }

  test("a fresh figure is not measured again, and questions at once share a walk", async () => {
    let walks = 0;
    const usages = new DiskUsages(async () => usage(BigInt(++walks)), 1_000_000);
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
});

describe("StatsReader", () => {
  test("a layer that was only ever asked for in a total is forgotten with its container", async () => {
    const measured: string[] = [];
    const usages = new DiskUsages(async (directory) => {
      measured.push(directory);
      return { bytes: 7n, inodes: 2n, timestampNs: 1n };
    }, 1_000_000);
    const reader = new StatsReader({ host: detectCgroups(), storageRoot: "/" }, usages);
    const layers = ["gone", "lives"].map((id) => ({ id, layerDirectory: `/${id}` }));
    expect(await reader.total(layers)).toEqual({ bytes: 14n, inodes: 4n });
    reader.retain(new Set(["lives"]));
    await reader.total(layers);
    // Measured anew: nothing was remembered of it.
    expect(measured).toEqual(["/gone", "/lives", "/gone"]);
  });
});
