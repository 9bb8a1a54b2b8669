import { statfsSync } from "node:fs";
import { CribError, messageOf } from "../error.ts";
import { codeOf } from "../linux/errno.ts";
import type { Core } from "./core.ts";

type State = Pick<Core, "config">;

/**
 * Runs what writes to the state directory: a tmpfs, which a neighbour on /run can fill.
 *
 * @throws CribError ResourceExhausted, with the remedy, when there is no room; else what `body` throws.
 */
export async function inState<T>(core: State, body: () => T | Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (codeOf(error) !== "ENOSPC" && codeOf(error) !== "EDQUOT") throw error;
    throw full(core, messageOf(error), error);
  }
}

/**
 * For what would come far without room there, and then fail elsewhere: systemd's units are on /run too.
 *
 * @throws CribError ResourceExhausted, with the remedy.
 */
export function requireRoom(core: State): void {
  const { blocks, bavail } = statfsSync(core.config.crib.state);
  // A file system that counts no blocks has no limit.
  if (blocks > 0 && bavail === 0) throw full(core, "no block is free");
}

function full({ config }: State, why: string, cause?: unknown): CribError {
  const { state } = config.crib;
  return new CribError(
    "ResourceExhausted",
    `${state} (crib.state) is full: ${why}: find what fills it (df ${state}; du -xd1 /run), ` +
      "or mount it larger (mount -o remount,size=)",
    { cause },
  );
}
