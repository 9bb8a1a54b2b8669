import { canceled, throwIfAborted } from "./http.ts";

/** Lets a number of callers run at once; the others wait in the order of their coming. */
export class Semaphore {
  #free: number;
  readonly #waiting: Array<() => void> = [];

  constructor(slots: number) {
    this.#free = slots;
  }

  /** Runs `body` in a slot. Throws `canceled(signal)` when it is aborted while waiting. */
  async run<T>(signal: AbortSignal, body: () => Promise<T>): Promise<T> {
    const release = await this.take(signal);
    try {
      return await body();
    } finally {
      release();
    }
  }

  /** Takes a slot; returns what gives it back, to be called once. Throws as `run`. */
  async take(signal: AbortSignal): Promise<() => void> {
    await this.#acquire(signal);
    return () => {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next();
    };
  }

  async #acquire(signal: AbortSignal): Promise<void> {
    throwIfAborted(signal);
    if (this.#free > 0) {
      this.#free -= 1;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const abort = () => {
        this.#waiting.splice(this.#waiting.indexOf(turn), 1);
        reject(canceled(signal));
      };
      const turn = () => {
        signal.removeEventListener("abort", abort);
        resolve();
      };
      this.#waiting.push(turn);
      signal.addEventListener("abort", abort, { once: true });
    });
  }
}
