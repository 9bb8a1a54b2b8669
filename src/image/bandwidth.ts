/** One limit on the speed of all downloads of this node. */
import { pause } from "./http.ts";

/** What passes at once after a quiet while; also the grain at which the downloads take turns. */
const BURST_MS = 100;

/** Time in milliseconds, and waiting for it; replaced in tests. */
export interface Clock {
  now(): number;
  wait(durationMs: number, signal: AbortSignal): Promise<void>;
}

const CLOCK: Clock = { now: () => performance.now(), wait: pause };

/**
 * Lets bytes pass at a rate. Who comes first goes first: a download asks for its next piece when the
 * last one has passed, so all get about the same.
 */
export class Bandwidth {
  readonly #bytesPerMs: number;
  readonly #clock: Clock;
  /** When all that was let through before has had its time. */
  #busyUntil = Number.NEGATIVE_INFINITY;

  constructor(bytesPerSecond: number, clock = CLOCK) {
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#clock = clock;
  }

  /** Passes the pieces on, late enough. Throws `canceled(signal)` when it is aborted meanwhile. */
  async *limit(
    pieces: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, void> {
    for await (const piece of pieces) {
      const now = this.#clock.now();
      const start = Math.max(this.#busyUntil, now - BURST_MS);
      this.#busyUntil = start + piece.length / this.#bytesPerMs;
      if (this.#busyUntil > now) await this.#clock.wait(this.#busyUntil - now, signal);
      yield piece;
    }
  }
}
