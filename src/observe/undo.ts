import { messageOf } from "../error.ts";
import { log } from "./log.ts";

/**
 * Clean-up, registered where the thing is made: `undo.add("monitor", () => …)`. When the operation
 * fails, `run` takes everything back in reverse order; a step that fails is logged and the rest goes on.
 */
export class Undo {
  readonly #steps: Array<{ what: string; step: () => Promise<void> | void; ifClean: boolean }> = [];

  add(what: string, step: () => Promise<void> | void): void {
    this.#steps.push({ what, step, ifClean: false });
  }

  /** A step that is left out when another failed: a record of what is still there must stay. */
  addIfClean(what: string, step: () => Promise<void> | void): void {
    this.#steps.push({ what, step, ifClean: true });
  }

  /** Runs `body`; on failure takes back what it registered and throws the body's own error. */
  static async on<T>(body: (undo: Undo) => Promise<T>): Promise<T> {
    const undo = new Undo();
    try {
      return await body(undo);
    } catch (error) {
      await undo.#run();
      throw error;
    }
  }

  async #run(): Promise<void> {
    let clean = true;
    for (const { what, step, ifClean } of this.#steps.reverse()) {
      if (ifClean && !clean) continue;
      try {
        await step();
      } catch (error) {
        clean = false;
        log().error({ what, error: messageOf(error) }, "clean-up failed");
      }
    }
  }
}
