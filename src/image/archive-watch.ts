/** Watches a directory of archives: its entries, and inside of those that are OCI layouts. */
import { type FSWatcher, readdirSync, statSync, watch } from "node:fs";
import { join } from "node:path";
import { messageOf } from "../error.ts";
import { codeOf } from "../linux/errno.ts";
import { log } from "../observe/log.ts";

/** Of directories; each takes one of the kernel's watches, of which all programs share some thousands. */
const LIMIT = 300;
/** The directory, LAYOUT, LAYOUT/blobs, LAYOUT/blobs/ALGORITHM. */
const DEEPEST = 3;

export class ArchiveWatch {
  readonly #directory: string;
  readonly #changed: (name: string) => void;
  readonly #limit: number;
  readonly #watchers = new Map<string, FSWatcher>();
  #complained = false;

  /** `changed` gets the name of the entry in or at which something was written, made or removed. */
  constructor(directory: string, changed: (name: string) => void, limit = LIMIT) {
    this.#directory = directory;
    this.#changed = changed;
    this.#limit = limit;
  }

  /** @throws what watch(2) throws for the directory itself. */
  start(): void {
    this.#watch(this.#directory, 0);
    this.#below(this.#directory, 0);
  }

  close(): void {
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  }

  /** How many directories are watched. */
  get size(): number {
    return this.#watchers.size;
  }

  #watch(path: string, depth: number): void {
    const watcher = watch(path, (event, name) => {
      if (this.#watchers.get(path) !== watcher) return;
      this.#event(path, depth, event, name ?? "");
    });
    watcher.on("error", (error) => this.#complain(path, messageOf(error)));
    watcher.unref();
    this.#watchers.set(path, watcher);
  }

  #event(path: string, depth: number, event: string, name: string): void {
    const child = join(path, name);
    // Made, removed, or another one of the same name.
    if (event === "rename" && name !== "" && isWanted(name, depth)) {
      this.#forget(child);
      this.#try(child, depth + 1);
    }
    const [entry = ""] = child.slice(this.#directory.length + 1).split("/");
    this.#changed(entry);
  }

  /** First the watch, then a look: nothing that is made meanwhile is overlooked. */
  #try(path: string, depth: number): void {
    try {
      if (statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true) return;
      if (this.#watchers.size >= this.#limit) {
        this.#complain(path, `more than ${this.#limit} directories`);
        return;
      }
      this.#watch(path, depth);
      this.#below(path, depth);
    } catch (error) {
      const code = codeOf(error);
      if (code !== "ENOENT" && code !== "ENOTDIR") this.#complain(path, messageOf(error));
    }
  }

  #below(path: string, depth: number): void {
    if (depth === DEEPEST) return;
    for (const name of readdirSync(path)) {
      if (isWanted(name, depth)) this.#try(join(path, name), depth + 1);
    }
  }

  #forget(path: string): void {
    for (const [watched, watcher] of this.#watchers) {
      if (watched !== path && !watched.startsWith(`${path}/`)) continue;
      watcher.close();
      this.#watchers.delete(watched);
    }
  }

  /** Once: what is not watched is still looked at again when an import of it has failed. */
  #complain(path: string, error: string): void {
    if (this.#complained) return;
    this.#complained = true;
    log().warn({ directory: path, error }, "not all directories of archives are watched");
  }
}

/** Whether a directory of this name in one of this depth may be part of a layout. */
function isWanted(name: string, depth: number): boolean {
  if (depth === 0) return !name.startsWith(".");
  return depth === 1 ? name === "blobs" : depth < DEEPEST;
}
