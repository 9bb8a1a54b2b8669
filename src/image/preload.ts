/** The watched directory: archives in it are imported and pinned, without anybody asking. */
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { stampOf } from "./archive-stamp.ts";
import { ArchiveWatch } from "./archive-watch.ts";
import type { ImportOptions } from "./importer.ts";

/** What is done with the archives; `Images` is it. */
export interface PreloadStore {
  import(path: string, options: ImportOptions): Promise<unknown>;
  archiveStamps(directory: string): Map<string, string>;
  forgetArchive(path: string): void;
}

/** A file that is still being written changes again within this time. */
const QUIET_MS = 1000;
/** Times the first: a retry comes twice as late after each further failure, and at most so late. */
const LAST_RETRY = 75;

/** An archive that could not be imported: still being copied, on a disk that was full, refused, broken. */
interface Failure {
  stamp: string;
  attempts: number;
  retryAtMs: number;
  message: string;
}

export class Preload {
  readonly #directory: string;
  readonly #store: PreloadStore;
  readonly #quietMs: number;
  readonly #firstRetryMs: number;
  readonly #failed = new Map<string, Failure>();
  /** Since they were last looked at. */
  readonly #changed = new Set<string>();
  readonly #watch: ArchiveWatch;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #running = false;
  #stopped = false;
  #again = false;

  /** `firstRetryMs`: when a failed import is tried again although nothing has changed. */
  constructor(
    directory: string,
    store: PreloadStore,
    {
      quietMs = QUIET_MS,
      firstRetryMs = 4 * quietMs,
    }: { quietMs?: number; firstRetryMs?: number } = {},
  ) {
    this.#directory = directory;
    this.#store = store;
    this.#quietMs = quietMs;
    this.#firstRetryMs = firstRetryMs;
    this.#watch = new ArchiveWatch(directory, (name) => {
      this.#changed.add(join(directory, name));
      this.#soon();
    });
  }

  /** Imports what is there, then what appears. Failures are logged: they must not end the daemon. */
  async start(): Promise<void> {
    try {
      mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
      this.#watch.start();
    } catch (error) {
      this.#complain(error);
    }
    await this.scan();
  }

  stop(): void {
    this.#watch.close();
    clearTimeout(this.#timer);
    clearTimeout(this.#retry);
    this.#stopped = true;
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
      this.#retryLater();
      if (this.#again) {
        this.#again = false;
        this.#soon();
      }
    }
  }

  /** Comes back for what has failed. */
  #retryLater(): void {
    clearTimeout(this.#retry);
    const next = Math.min(...[...this.#failed.values()].map(({ retryAtMs }) => retryAtMs));
    if (this.#stopped || !Number.isFinite(next)) return;
    // What is overdue waits as well: the directory itself may be what cannot be read.
    const pauseMs = Math.max(this.#quietMs, next - performance.now());
    this.#retry = setTimeout(() => void this.scan(), pauseMs);
    this.#retry.unref();
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
    for (const path of this.#changed) if (!there.has(path)) this.#changed.delete(path);
    for (const path of [...there].sort()) await this.#importOne(path, known.get(path));
  }

  async #importOne(path: string, known: string | undefined): Promise<void> {
    if (this.#changed.delete(path)) this.#mayWorkNow(path);
    const failure = this.#failed.get(path);
    let stamp = "";
    try {
      stamp = stampOf(path);
      if (stamp === failure?.stamp && performance.now() < failure.retryAtMs) return;
      if (stamp !== known) await this.#store.import(path, { pinned: true });
      this.#failed.delete(path);
    } catch (error) {
      this.#fail(path, stamp, messageOf(error));
    }
  }

  #mayWorkNow(path: string): void {
    const failure = this.#failed.get(path);
    if (failure !== undefined) this.#failed.set(path, { ...failure, attempts: -1, retryAtMs: 0 });
  }

  #fail(path: string, stamp: string, message: string): void {
    const before = this.#failed.get(path);
    const attempts = before?.stamp === stamp ? before.attempts + 1 : 0;
    const pauseMs = this.#firstRetryMs * Math.min(2 ** attempts, LAST_RETRY);
    this.#failed.set(path, { stamp, attempts, message, retryAtMs: performance.now() + pauseMs });
    if (before?.message === message) return;
    log().error(
      { archive: path, error: message },
      "an archive cannot be imported: tried again later",
    );
  }

  #complain(error: unknown): void {
    const fields = { directory: this.#directory, error: messageOf(error) };
    log().error(fields, "the directory of archives cannot be read or watched");
  }
}
