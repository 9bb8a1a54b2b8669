import { CribError, messageOf } from "../error.ts";
import { codeOf } from "../linux/errno.ts";
import type { Core } from "./core.ts";

/**
 * Runs what writes to the state directory: a tmpfs, which a neighbour on /run can fill.
 *
 * @throws CribError ResourceExhausted, with the remedy, when there is no room; else what `body` throws.
 */
export async function inState<T>(
  core: Pick<Core, "config">,
  body: () => T | Promise<T>,
): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (codeOf(error) !== "ENOSPC" && codeOf(error) !== "EDQUOT") throw error;
    const { state } = core.config.crib;
    throw new CribError(
      "ResourceExhausted",
      `${state} (crib.state) is full: ${messageOf(error)}: find what fills it (df ${state}; du -xd1 /run), ` +
        "or mount it larger (mount -o remount,size=)",
      { cause: error },
    );
  }
}
