/** The watched directory: archives in it are imported and pinned, without anybody asking. */
import { type FSWatcher, mkdirSync, readdirSync, watch } from "node:fs";
import { join } from "node:path";
import { messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { stampOf } from "./archive-stamp.ts";
import type { ImportOptions } from "./importer.ts";

/** What is done with the archives; `Images` is it. */
export interface PreloadStore {
  import(path: string, options: ImportOptions): Promise<unknown>;
  archiveStamps(directory: string): Map<string, string>;
  forgetArchive(path: string): void;
}

/** A file that is still being written changes again within this time. */
const QUIET_MS = 1000;

export class Preload {
  readonly #directory: string;
  readonly #store: PreloadStore;
  readonly #quietMs: number;
  /** Archives that could not be imported, with the stamp they had: tried again when they change. */
  readonly #failed = new Map<string, string>();
  #watcher: FSWatcher | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #running = false;
  #again = false;

  constructor(directory: string, store: PreloadStore, quietMs = QUIET_MS) {
    this.#directory = directory;
    this.#store = store;
    this.#quietMs = quietMs;
  }

  /** Imports what is there, then what appears. Failures are logged: they must not end the daemon. */
  async start(): Promise<void> {
    try {
      mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
      this.#watcher = watch(this.#directory, () => this.#soon());
      this.#watcher.on("error", (error) => this.#complain(error));
      this.#watcher.unref();
    } catch (error) {
      this.#complain(error);
    }
    await this.scan();
  }

  stop(): void {
    this.#watcher?.close();
    clearTimeout(this.#timer);
  }

  /** Waits until nothing has changed for a while. */
  #soon(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.scan(), this.#quietMs);
    this.#timer.unref();
  }

  /** Imports archives that are new or have changed, and forgets those that are gone; one at a time. */
  async scan(): Promise<void> {
    if (this.#running) {
      this.#again = true;
      return;
    }
    this.#running = true;
    try {
      await this.#scanOnce();
    } catch (error) {
      this.#complain(error);
    } finally {
      this.#running = false;
      if (this.#again) {
        this.#again = false;
        this.#soon();
      }
    }
  }

  async #scanOnce(): Promise<void> {
    const known = this.#store.archiveStamps(this.#directory);
    // Names that begin with a dot are those of files that are being copied here.
    const names = readdirSync(this.#directory).filter((name) => !name.startsWith("."));
    const there = new Set(names.map((name) => join(this.#directory, name)));
    for (const path of [...known.keys(), ...this.#failed.keys()]) {
      if (there.has(path)) continue;
      this.#store.forgetArchive(path);
      this.#failed.delete(path);
    }
    for (const path of [...there].sort()) await this.#importOne(path, known.get(path));
  }

  async #importOne(path: string, known: string | undefined): Promise<void> {
    let stamp = "";
    try {
      stamp = stampOf(path);
      if (stamp === known || stamp === this.#failed.get(path)) return;
      // What an earlier file of that name pinned is pinned by it no more.
      if (known !== undefined) this.#store.forgetArchive(path);
      await this.#store.import(path, { pinned: true });
      this.#failed.delete(path);
    } catch (error) {
      this.#failed.set(path, stamp);
      log().error({ archive: path, error: messageOf(error) }, "an archive cannot be imported");
    }
  }

  #complain(error: unknown): void {
    const fields = { directory: this.#directory, error: messageOf(error) };
    log().error(fields, "the directory of archives cannot be read or watched");
  }
}
