import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { messageOf } from "../error.ts";
import { codeOf } from "../linux/errno.ts";
import { log } from "../observe/log.ts";
import type { ContainerExit } from "./types.ts";

const byte = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(255));
const bigint = v.pipe(
  v.string(),
  v.regex(/^\d{1,20}$/),
  v.transform((digits) => BigInt(digits)),
);

/** What `save_exit` in src/native/container_exit.c writes. */
const ExitRecord = v.object({
  version: v.literal(1),
  id: v.pipe(v.string(), v.nonEmpty()),
  exitCode: byte,
  signal: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(64)),
  finishedAtNs: bigint,
  oomKilled: v.boolean(),
  droppedLogBytes: bigint,
  logComplete: v.optional(v.boolean()),
});

/**
 * The exit records of a pod, for when its monitor is gone: each is written before the daemon is
 * told, and removed by `forget`. One that cannot be read is left out and logged.
 *
 * @param directory the pod's, as in `MonitorOptions`
 */
export async function readExitRecords(directory: string): Promise<ContainerExit[]> {
  const exits = join(directory, "exits");
  const names = await readdir(exits).catch((error: unknown) => {
    if (codeOf(error) === "ENOENT") return [];
    throw error;
  });
  const records = await Promise.all(
    names.filter((name) => !name.startsWith(".")).map((name) => readRecord(exits, name)),
  );
  return records.filter((record) => record !== undefined);
}

async function readRecord(directory: string, name: string): Promise<ContainerExit | undefined> {
  const path = join(directory, name);
  try {
    const { version: _, ...exit } = v.parse(ExitRecord, JSON.parse(await readFile(path, "utf8")));
    if (exit.id !== name) throw new Error(`it is about ${exit.id}`);
    return exit;
  } catch (error) {
    log().warn({ path, error: messageOf(error) }, "an exit record cannot be read");
    return undefined;
  }
}
