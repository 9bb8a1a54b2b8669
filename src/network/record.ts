/**
 * Write-ahead records of attachments, one file for each pod: what is needed to undo an ADD, whatever has
 * happened since to the daemon, the configuration or the pod's namespace.
 */
import { closeSync, openSync, readFileSync } from "node:fs";
import { mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { CribError, messageOf } from "../error.ts";
import { codeOf } from "../linux/errno.ts";
import { tryLock } from "../linux/lock.ts";
import { networkSchema } from "./conflist.ts";

const LOCK_POLL_MS = 50;

const recordSchema = v.object({
  version: v.literal(1),
  podId: v.string(),
  /** namespace/name, for messages. */
  pod: v.string(),
  netns: v.string(),
  ifName: v.string(),
  cniArgs: v.string(),
  capabilityArgs: v.record(v.string(), v.unknown()),
  /** The network as it was when the pod was attached. */
  network: networkSchema,
  /** What the last plugin returned; absent until ADD has succeeded. */
  result: v.optional(v.unknown()),
});

export type AttachmentRecord = v.InferOutput<typeof recordSchema>;

/** The directory of records: `<root>/network`. */
export class Records {
  constructor(readonly directory: string) {}

  /**
   * Returns once the record is on disk.
   *
   * @throws CribError ResourceExhausted when the disk is full.
   */
  async write(record: AttachmentRecord): Promise<void> {
    try {
      await this.#write(record);
    } catch (error) {
      await this.removePartial(record.podId);
      if (codeOf(error) !== "ENOSPC" && codeOf(error) !== "EDQUOT") throw error;
      throw new CribError("ResourceExhausted", `network record: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  async #write(record: AttachmentRecord): Promise<void> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
    const path = this.#path(record.podId);
    const file = await open(`${path}.tmp`, "w", 0o600);
    try {
      await file.writeFile(JSON.stringify(record));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(`${path}.tmp`, path);
    await this.#sync();
  }

  /**
   * The record of a pod, `undefined` when there is none.
   *
   * @throws CribError DataLoss when the file cannot be understood.
   */
  read(podId: string): AttachmentRecord | undefined {
    const path = this.#path(podId);
    let text: string;
    try {
      text = readFileSync(path, "utf8");
    } catch (error) {
      if (codeOf(error) === "ENOENT") return undefined;
      throw error;
    }
    try {
      return v.parse(recordSchema, JSON.parse(text));
    } catch (error) {
      throw new CribError("DataLoss", `${path}: not a network record: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /** Opens a pod's record and locks it; whoever inherits the descriptor shares the lock. */
  lock(podId: string): number {
    const fd = openSync(this.#path(podId), "r");
    tryLock(fd);
    return fd;
  }

  /** Waits until nobody has the record locked; false after `deadlineMs`. */
  async unlocked(podId: string, deadlineMs: number): Promise<boolean> {
    const end = performance.now() + deadlineMs;
    while (performance.now() < end) {
      const fd = this.#openOrMissing(podId);
      if (fd === undefined) return true;
      const free = tryLock(fd);
      closeSync(fd);
      if (free) return true;
      await Bun.sleep(LOCK_POLL_MS);
    }
    return false;
  }

  #openOrMissing(podId: string): number | undefined {
    try {
      return openSync(this.#path(podId), "r");
    } catch (error) {
      if (codeOf(error) === "ENOENT") return undefined;
      throw error;
    }
  }

  async remove(podId: string): Promise<void> {
    await rm(this.#path(podId), { force: true });
    await this.#sync();
  }

  /** Removes what a `write` that was cut short has left. */
  async removePartial(podId: string): Promise<void> {
    await rm(`${this.#path(podId)}.tmp`, { force: true });
  }

  /** Pod ids that have a record. */
  async list(): Promise<string[]> {
    try {
      const names = await readdir(this.directory);
      return names.filter((name) => name.endsWith(".json")).map((name) => name.slice(0, -5));
    } catch (error) {
      if (codeOf(error) === "ENOENT") return [];
      throw error;
    }
  }

  #path(podId: string): string {
    if (!/^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(podId)) {
      throw new CribError("InvalidArgument", `pod id: "${podId}" is not a CNI container id`);
    }
    return join(this.directory, `${podId}.json`);
  }

  async #sync(): Promise<void> {
    const directory = await open(this.directory, "r");
    try {
      await directory.sync();
    } finally {
      await directory.close();
    }
  }
}
