/** What a directory tree takes on disk, however large, wide or deep it is. */
import { closeSync, constants, lstatSync, openSync, type Stats } from "node:fs";
import { namesIn } from "../linux/directory.ts";
import { codeOf } from "../linux/errno.ts";
import { O_PATH } from "../linux/open-flags.ts";

const BLOCK_BYTES = 512;
/** A walk's end, whatever it has not seen then: the figures are too low, and high enough for any limit. */
export const WALK_LIMIT_MS = 5 * 60_000;
/** Names of directories that are yet to be walked. What finds no room is counted, but not what is in it. */
const PENDING_LIMIT_BYTES = 64 * 1024 * 1024;
/** Of such a name, besides its characters. */
const NAME_COST_BYTES = 48;
/** What has changed meanwhile, or is nested so widely that its directories cannot be held open. */
const UNREACHABLE: readonly string[] = ["ENOENT", "ENOTDIR", "ELOOP", "ENAMETOOLONG", "EMFILE"];

/**
 * Sums up blocks and inodes. A file with several links counts once, as each link counts as its share: links
 * to a file cannot lead out of a container's writable layer (and Crib mounts it without an index, which
 * would have more of them), so the shares make wholes, and no file has to be remembered.
 */
export class UsageTotals {
  #inodes = 0;
  #blocks = 0;
  /** By their number of links, files and their blocks. */
  readonly #linked = new Map<number, { inodes: number; blocks: number }>();

  add(stat: Stats): void {
    if (stat.isDirectory() || stat.nlink < 2) {
      this.#inodes += 1;
      this.#blocks += stat.blocks;
      return;
    }
    const same = this.#linked.get(stat.nlink);
    if (same === undefined) this.#linked.set(stat.nlink, { inodes: 1, blocks: stat.blocks });
    else {
      same.inodes += 1;
      same.blocks += stat.blocks;
    }
  }

  /** Bytes of allocated blocks, as `du` counts: holes are free. */
  sum(): { bytes: number; inodes: number } {
    let inodes = this.#inodes;
    let blocks = this.#blocks;
    for (const [links, same] of this.#linked) {
      inodes += Math.ceil(same.inodes / links);
      blocks += Math.ceil(same.blocks / links);
    }
    return { bytes: blocks * BLOCK_BYTES, inodes };
  }
}

interface Level {
  directory: number;
  /** Names of directories in it that are yet to be walked, a character for each byte. */
  pending: string[];
}

/**
 * Walks a tree without following symbolic links, synchronously: in a process of its own. undefined when
 * `root` is not there; what vanishes meanwhile is left out.
 */
export function walkTree(root: string): { bytes: number; inodes: number } | undefined {
  const walk = new TreeWalk();
  return walk.run(root) ? walk.totals.sum() : undefined;
}

class TreeWalk {
  readonly totals = new UsageTotals();
  readonly #levels: Level[] = [];
  #pendingBytes = 0;

  run(root: string): boolean {
    const top = stat(Buffer.from(root));
    if (top === undefined) return false;
    this.totals.add(top);
    if (top.isDirectory()) this.#enter(Buffer.from(root));
    const endMs = performance.now() + WALK_LIMIT_MS;
    for (let level = this.#levels.at(-1); level !== undefined; level = this.#levels.at(-1)) {
      const name = level.pending.pop();
      if (name === undefined || performance.now() > endMs) {
        this.#leave();
        continue;
      }
      this.#pendingBytes -= NAME_COST_BYTES + name.length;
      this.#enter(below(level.directory, Buffer.from(name, "latin1")));
    }
    return true;
  }

  #leave(): void {
    const level = this.#levels.pop();
    if (level !== undefined) closeSync(level.directory);
  }

  #enter(path: Buffer): void {
    try {
      const flags = O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW;
      const directory = openSync(path, flags);
      // A parent with nothing more to walk is let go, so that a chain of directories may be of any length.
      if (this.#levels.at(-1)?.pending.length === 0) this.#leave();
      const level: Level = { directory, pending: [] };
      this.#levels.push(level);
      this.#list(level);
    } catch (error) {
      if (!UNREACHABLE.includes(codeOf(error))) throw error;
    }
  }

  #list({ directory, pending }: Level): void {
    for (const name of namesIn(below(directory, Buffer.from(".")))) {
      const info = stat(below(directory, name));
      if (info === undefined) continue;
      this.totals.add(info);
      const cost = NAME_COST_BYTES + name.length;
      if (!info.isDirectory() || this.#pendingBytes + cost > PENDING_LIMIT_BYTES) continue;
      this.#pendingBytes += cost;
      pending.push(name.toString("latin1"));
    }
  }
}

function below(directory: number, name: Buffer): Buffer {
  return Buffer.concat([Buffer.from(`/proc/self/fd/${directory}/`), name]);
}

function stat(path: Buffer): Stats | undefined {
  try {
    return lstatSync(path);
  } catch (error) {
    if (UNREACHABLE.includes(codeOf(error))) return undefined;
    throw error;
  }
}
