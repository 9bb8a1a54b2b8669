import { closeSync, openSync } from "node:fs";
import type { Config } from "../config/config.ts";
import { CribError } from "../error.ts";
import { tryLock } from "../linux/lock.ts";

/**
 * How long a lock is waited for: a child of a daemon that was killed shares it until it has become
 * another program.
 */
const WAIT_MS = 2_000;
const LOOK_AGAIN_MS = 10;

/**
 * One daemon per root and per state directory: two would undo each other's work.
 *
 * @returns the way to let go; the kernel does it too when the process ends, however it ends.
 * @throws CribError FailedPrecondition
 */
export function lockRoot(config: Config): () => void {
  const held: number[] = [];
  for (const key of ["root", "state"] as const) {
    const fd = openSync(`${config.crib[key]}/lock`, "a", 0o600);
    held.push(fd);
    if (!waitForLock(fd)) {
      for (const each of held) closeSync(each);
      throw new CribError(
        "FailedPrecondition",
        `crib.${key}: ${config.crib[key]} is in use by another crib serve`,
      );
    }
  }
  return () => {
    for (const fd of held) closeSync(fd);
  };
}

/** Nothing else is there to do yet. */
function waitForLock(fd: number): boolean {
  const end = performance.now() + WAIT_MS;
  while (!tryLock(fd)) {
    if (performance.now() > end) return false;
    Bun.sleepSync(LOOK_AGAIN_MS);
  }
  return true;
}
