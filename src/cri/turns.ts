import { setImmediate as nextTurn } from "node:timers/promises";
import { encodeVerbose } from "./info.ts";
import { type Codec, EncodedAnswer, encode, VerboseAnswer } from "./service.ts";

/** Of a client that does not read its answer: the next one's turn comes all the same. */
const TURN_MS = 2_000;

/**
 * Answers that may have megabytes, as verbose ones do, and are in memory several times while they are made:
 * one after the other, until each is sent, with turns for all other calls in between.
 */
export class Turns {
  #last: Promise<void> = Promise.resolve();

  /** `turnMs` is there for tests. */
  constructor(readonly turnMs = TURN_MS) {}

  async answer(codec: Codec, make: () => unknown): Promise<EncodedAnswer> {
    const end = await this.#turn();
    try {
      const answer = await make();
      const isVerbose = answer instanceof VerboseAnswer;
      const bytes = isVerbose ? encodeVerbose(codec, answer) : encode(codec, answer);
      return new EncodedAnswer(bytes, end);
    } catch (error) {
      end();
      throw error;
    }
  }

  /** Waits for it; returns what ends it. */
  async #turn(): Promise<() => void> {
    const before = this.#last;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#last = promise;
    await before;
    await nextTurn();
    const timer = setTimeout(resolve, this.turnMs);
    return () => {
      clearTimeout(timer);
      resolve();
    };
  }
}
