/** Disk usage of a directory tree: walked in the background of the event loop, and remembered. */
import { lstat, readdir } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

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

/** What is nested deeper than a path can say is not counted, and costs the rest not its figures. */
const UNREACHABLE: unknown[] = ["ENOENT", "ENOTDIR", "ENAMETOOLONG"];

function isGone(error: unknown): boolean {
  return error instanceof Error && "code" in error && UNREACHABLE.includes(error.code);
}

interface Totals {
  blocks: bigint;
  inodes: bigint;
  linked: Set<string>;
}

/** Counts one entry; says whether it is a directory. An entry that just went away counts nothing. */
async function count(path: Buffer, totals: Totals): Promise<boolean> {
  const stat = await lstat(path, { bigint: true }).catch((error) => {
    if (isGone(error)) return undefined;
    throw error;
  });
  if (stat === undefined) return false;
  if (!stat.isDirectory() && stat.nlink > 1n) {
    const key = `${stat.dev}:${stat.ino}`;
    if (totals.linked.has(key)) return false;
    totals.linked.add(key);
  }
  totals.blocks += stat.blocks;
  totals.inodes += 1n;
  return stat.isDirectory();
}

/**
 * Walks a tree without following symbolic links. undefined when `root` is not there; what vanishes
 * meanwhile is left out.
 */
export async function measureDiskUsage(root: string): Promise<DiskUsage | undefined> {
  const totals: Totals = { blocks: 0n, inodes: 0n, linked: new Set() };
  const pending: Buffer[] = [];
  const top = Buffer.from(root);
  if (await count(top, totals)) pending.push(top);
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const directory = next;
    // A name may be any bytes.
    const names = await readdir(directory, { encoding: "buffer" }).catch((error) => {
      if (isGone(error)) return [];
      throw error;
    });
    for (let start = 0; start < names.length; start += CONCURRENCY) {
      const paths = names
        .slice(start, start + CONCURRENCY)
        .map((name) => Buffer.concat([directory, SLASH, name]));
      const directories = await Promise.all(paths.map((path) => count(path, totals)));
      pending.push(...paths.filter((_, index) => directories[index]));
    }
  }
  if (totals.inodes === 0n) return undefined;
  return {
    bytes: totals.blocks * 512n,
    inodes: totals.inodes,
    timestampNs: BigInt(Date.now()) * 1_000_000n,
  };
}

interface Entry {
  usage: DiskUsage | undefined;
  staleAtMs: number;
  walk: Promise<DiskUsage | undefined> | undefined;
}

/**
 * Remembers the usage of trees. A question never waits for a long walk: it gets the last known figures
 * (with the time they were true) while a new walk runs. Walks run one after the other.
 */
export class DiskUsages {
  readonly #entries = new Map<string, Entry>();
  #queue: Promise<unknown> = Promise.resolve();

  /** `measure` and `freshMs` are there for tests. */
  constructor(
    readonly measure: (root: string) => Promise<DiskUsage | undefined> = measureDiskUsage,
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
    const walk = this.#queue.then(async () => {
      const startMs = performance.now();
      try {
        entry.usage = await this.measure(root);
        return entry.usage;
      } finally {
        const endMs = performance.now();
        entry.staleAtMs = endMs + Math.max(this.freshMs, (endMs - startMs) * DUTY);
        entry.walk = undefined;
      }
    });
    entry.walk = walk;
    // A failed walk is its asker's to report; nobody may be waiting any more.
    this.#queue = walk.catch(() => undefined);
  }
}
