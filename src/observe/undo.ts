import { messageOf } from "../error.ts";
import { log } from "./log.ts";

/**
 * Runs `body`; when it fails, takes back what it has made and throws its error. What is made has names
 * that follow from an id, and `undo` is idempotent, so it need not know how far `body` came.
 */
export async function orUndo<T>(body: () => Promise<T>, undo: () => Promise<void>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    try {
      await undo();
    } catch (second) {
      log().error({ error: messageOf(second) }, "clean-up failed");
    }
    throw error;
  }
}
