import { closeSync, openSync } from "node:fs";
import type { Config } from "../config/config.ts";
import { CribError } from "../error.ts";
import { tryLock } from "../linux/lock.ts";

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
    if (!tryLock(fd)) {
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
