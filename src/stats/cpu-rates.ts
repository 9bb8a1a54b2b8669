/** Nothing is said about shorter windows: the kernel's own accounting is too coarse for them. */
const SHORTEST_WINDOW_NS = 100_000_000n;

interface Sample {
  usageNs: bigint;
  monotonicNs: bigint;
  nanoCores?: bigint;
}

/**
 * CPU use between two samples of a container, in billionths of a core (`usage_nano_cores`). Only the
 * last sample is kept; there is no timer, so the window is the time between the callers' questions.
 */
export class CpuRates {
  readonly #last = new Map<string, Sample>();

  /**
   * Takes a sample and gives the rate since the one before; undefined for the first. A sample less than
   * 100 ms after the last one repeats the last rate. A counter that went back starts anew.
   */
  sample(id: string, usageNs: bigint, monotonicNs: bigint): bigint | undefined {
    const last = this.#last.get(id);
    if (last === undefined || usageNs < last.usageNs || monotonicNs < last.monotonicNs) {
      this.#last.set(id, { usageNs, monotonicNs });
      return undefined;
    }
    const windowNs = monotonicNs - last.monotonicNs;
    if (windowNs < SHORTEST_WINDOW_NS) return last.nanoCores;
    const nanoCores = ((usageNs - last.usageNs) * 1_000_000_000n) / windowNs;
    this.#last.set(id, { usageNs, monotonicNs, nanoCores });
    return nanoCores;
  }

  /** Drops the sample of a container that is gone. */
  forget(id: string): void {
    this.#last.delete(id);
  }
}
