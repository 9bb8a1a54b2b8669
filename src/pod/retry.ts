import { messageOf } from "../error.ts";
import { log, withoutRequest } from "../observe/log.ts";

/** How long what failed waits for the next try: at first, and at most. */
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 30_000;

/**
 * Does what nobody else would do again: until it succeeds.
 *
 * @returns when the first try has ended, whatever its outcome.
 */
export async function untilDone(
  podId: string,
  what: string,
  step: () => Promise<void>,
  retryMs = FIRST_RETRY_MS,
): Promise<void> {
  try {
    await step();
  } catch (error) {
    log().error({ podId, error: messageOf(error), retryMs }, `${what} a pod failed; trying again`);
    const next = Math.min(retryMs * 2, LONGEST_RETRY_MS);
    const again = () => withoutRequest({ podId }, () => untilDone(podId, what, step, next));
    setTimeout(again, retryMs).unref();
  }
}
