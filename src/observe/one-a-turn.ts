import { setImmediate as nextTurn } from "node:timers/promises";

/**
 * Lets callers on one by one, each in a turn of the event loop of its own: what hundreds begin at once
 * holds nobody else up for longer than one of them does.
 */
export class OneATurn {
  #last: Promise<void> = Promise.resolve();

  /** The next one comes `pauseMs` later at the earliest. */
  constructor(readonly pauseMs = 0) {}

  /** Resolves in the caller's turn. */
  next(): Promise<void> {
    const turn = this.#last.then(() => nextTurn());
    this.#last = this.pauseMs === 0 ? turn : turn.then(() => Bun.sleep(this.pauseMs));
    return turn;
  }
}
