/** Disk usage of directory trees: measured in the background, and remembered. */
import { lstat } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import * as v from "valibot";
import { CribError } from "../error.ts";
import { runCommand } from "../linux/command.ts";
import { namesIn } from "../linux/directory.ts";
import { codeOf } from "../linux/errno.ts";
import { UsageTotals, WALK_LIMIT_MS } from "./tree-usage.ts";

export interface DiskUsage {
  /** Allocated blocks, as `du` counts: holes are free, a file with several links counts once. */
  bytes: bigint;
  inodes: bigint;
  /** Wall clock at the end of the walk, nanoseconds since 1970. */
  timestampNs: bigint;
}

/** lstat calls at a time, so that a walk leaves the thread pool to others. */
const CONCURRENCY = 4;
const SLASH = Buffer.from("/");
const FRESH_MS = 10_000;
/** A walk may take this part of the time at most: a tree that needs 5 s is walked every 100 s. */
const DUTY = 20;
/** A tree of so many entries is walked by the daemon itself: for less than what a process costs. */
const SMALL_ENTRIES = 512;
/** A process that is not done by then does not get on, and is killed. */
const PROCESS_LIMIT_MS = 2 * WALK_LIMIT_MS;
const OUTPUT_LIMIT_BYTES = 4096;

const usageSchema = v.nullable(v.object({ bytes: v.number(), inodes: v.number() }));

/** Measures trees: small ones here, large ones in a process of their own. */
export interface TreeMeasure {
  /** undefined: it is not there; "large": it is to be measured by `large`. */
  small(root: string): Promise<DiskUsage | undefined | "large">;
  large(root: string): Promise<DiskUsage | undefined>;
}

/** @param executable argv to run Crib again, to which the subcommand is added. */
export function treeMeasure(executable: readonly string[]): TreeMeasure {
  return { small: measureSmall, large: (root) => measureLarge(executable, root) };
}

async function measureSmall(root: string): Promise<DiskUsage | undefined | "large"> {
  const totals = new UsageTotals();
  const pending: Buffer[] = [];
  if ((await count([Buffer.from(root)], totals, pending)) === 0) return undefined;
  let entries = 1;
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const paths: Buffer[] = [];
    try {
      for (const name of namesIn(next)) {
        entries += 1;
        if (entries > SMALL_ENTRIES) return "large";
        paths.push(Buffer.concat([next, SLASH, name]));
      }
    } catch (error) {
      if (codeOf(error) === "ENAMETOOLONG") return "large";
      // It has just gone, or something else is in its place.
      if (!["ENOENT", "ENOTDIR", "ELOOP"].includes(codeOf(error))) throw error;
    }
    for (let start = 0; start < paths.length; start += CONCURRENCY) {
      await count(paths.slice(start, start + CONCURRENCY), totals, pending);
    }
  }
  return usageOf(totals.sum());
}

/** Counts entries; appends the directories among them. How many there were: some may just have gone. */
async function count(paths: Buffer[], totals: UsageTotals, pending: Buffer[]): Promise<number> {
  let there = 0;
  const stats = await Promise.all(
    paths.map((path) =>
      lstat(path).catch((error: unknown) => {
        if (["ENOENT", "ENOTDIR"].includes(codeOf(error))) return undefined;
        throw error;
      }),
    ),
  );
  for (const [index, stat] of stats.entries()) {
    if (stat === undefined) continue;
    there += 1;
    totals.add(stat);
    const path = paths[index];
    if (stat.isDirectory() && path !== undefined) pending.push(path);
  }
  return there;
}

async function measureLarge(
  executable: readonly string[],
  root: string,
): Promise<DiskUsage | undefined> {
  const { exitCode, stdout, stderr, timedOut } = await runCommand(
    [...executable, "disk-usage", root],
    { deadlineMs: PROCESS_LIMIT_MS, outputLimitBytes: OUTPUT_LIMIT_BYTES, work: "bulk" },
  );
  if (timedOut) throw new CribError("DeadlineExceeded", `disk usage of ${root}: took too long`);
  if (exitCode !== 0) {
    const why = stderr.trim() || `exit code ${exitCode}`;
    throw new CribError("Internal", `disk usage of ${root}: ${why}`);
  }
  const usage = v.parse(usageSchema, JSON.parse(stdout));
  return usage === null ? undefined : usageOf(usage);
}

function usageOf({ bytes, inodes }: { bytes: number; inodes: number }): DiskUsage {
  return {
    bytes: BigInt(bytes),
    inodes: BigInt(inodes),
    timestampNs: BigInt(Date.now()) * 1_000_000n,
  };
}

/** Does one thing after the other. */
class Line {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#last.then(work);
    // A failure is its asker's to report; nobody may be waiting any more.
    this.#last = mine.catch(() => undefined);
    return mine;
  }
}

interface Entry {
  usage: DiskUsage | undefined;
  staleAtMs: number;
  walk: Promise<DiskUsage | undefined> | undefined;
}

/**
 * Remembers the usage of trees. A question never waits for a long walk: it gets the last known figures
 * (with the time they were true) while a new walk runs. Walks run one after the other; small trees do not
 * wait for large ones.
 */
export class DiskUsages {
  readonly #entries = new Map<string, Entry>();
  readonly #small = new Line();
  readonly #large = new Line();

  /** `freshMs` is there for tests. */
  constructor(
    readonly measure: TreeMeasure,
    readonly freshMs: number = FRESH_MS,
  ) {}

  /**
   * The usage of the tree at `root`. undefined when it is not there, or was never measured and its walk
   * takes longer than `waitMs` milliseconds.
   */
  async usage(root: string, waitMs: number): Promise<DiskUsage | undefined> {
    const entry = this.#entries.get(root) ?? {
      usage: undefined,
      staleAtMs: 0,
      walk: undefined,
    };
    this.#entries.set(root, entry);
    if (entry.walk === undefined && performance.now() >= entry.staleAtMs) this.#start(root, entry);
    if (entry.usage !== undefined || entry.walk === undefined) return entry.usage;
    const timer = new AbortController();
    const late = sleep(waitMs, undefined, { signal: timer.signal }).catch(() => undefined);
    try {
      return await Promise.race([entry.walk, late]);
    } finally {
      timer.abort();
    }
  }

  /** Drops what is known about a tree. */
  forget(root: string): void {
    this.#entries.delete(root);
  }

  #start(root: string, entry: Entry): void {
    const walk = this.#walk(root, entry).finally(() => {
      entry.walk = undefined;
    });
    entry.walk = walk;
    walk.catch(() => undefined);
  }

  async #walk(root: string, entry: Entry): Promise<DiskUsage | undefined> {
    const timed = async <T>(measure: (root: string) => Promise<T>) => {
      const startMs = performance.now();
      try {
        return await measure(root);
      } finally {
        const endMs = performance.now();
        entry.staleAtMs = endMs + Math.max(this.freshMs, (endMs - startMs) * DUTY);
      }
    };
    const small = await this.#small.run(() => timed(this.measure.small));
    entry.usage =
      small === "large" ? await this.#large.run(() => timed(this.measure.large)) : small;
    return entry.usage;
  }
}
