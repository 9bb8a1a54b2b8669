/** How far the running pulls are, and what all have done together: for log, status and metrics. */
import { CribError } from "../error.ts";
import { log } from "../observe/log.ts";

/** A pull or import that runs. Bytes are compressed ones, of the layers that were not there before. */
export interface PullView {
  image: string;
  ageMs: number;
  bytes: number;
  /** 0 until the manifest has been read, like `totalLayers`. */
  totalBytes: number;
  layers: number;
  totalLayers: number;
}

/** Since the daemon's start. */
export interface PullTotals {
  succeeded: number;
  failed: number;
  canceled: number;
  seconds: number;
  /** What has come, also for pulls that failed later, and again after broken connections. */
  bytes: number;
  layers: number;
}

/** A layer that a pull waits for; `size` is that of its blob. */
interface Wanted {
  chainId: string;
  size: number;
  there: boolean;
}

interface Pull {
  image: string;
  since: number;
  layers: number;
  wanted: Wanted[];
}

/** What a pull says of itself. */
export interface PullProgress {
  /** The image has so many layers, of which these must come. */
  expect(layers: number, missing: ReadonlyArray<{ chainId: string; size: number }>): void;
  /** One of them is in the store. */
  have(chainId: string): void;
}

const TELL_INTERVAL_MS = 10_000;
const logPull = (pull: PullView) => log().info(pull, "pulling");

export class Progress {
  readonly totals: PullTotals = {
    succeeded: 0,
    failed: 0,
    canceled: 0,
    seconds: 0,
    bytes: 0,
    layers: 0,
  };
  readonly #pulls = new Set<Pull>();
  /** Bytes of the layers that come now, by chainID: several pulls may wait for one. */
  readonly #downloads = new Map<string, number>();
  readonly #intervalMs: number;
  readonly #tell: (pull: PullView) => void;

  /** `tell` hears of each pull that runs, every `intervalMs`. */
  constructor({ intervalMs = TELL_INTERVAL_MS, tell = logPull } = {}) {
    this.#intervalMs = intervalMs;
    this.#tell = tell;
  }

  /** Runs a pull of `image`, which is listed until it has ended and told in the log now and then. */
  async run<T>(image: string, body: (progress: PullProgress) => Promise<T>): Promise<T> {
    const pull: Pull = { image, since: performance.now(), layers: 0, wanted: [] };
    this.#pulls.add(pull);
    const timer = setInterval(() => this.#tell(this.#view(pull)), this.#intervalMs);
    try {
      const result = await body({
        expect: (layers, missing) => {
          pull.layers = layers;
          pull.wanted = missing.map(({ chainId, size }) => ({ chainId, size, there: false }));
        },
        have: (chainId) => {
          for (const layer of pull.wanted) if (layer.chainId === chainId) layer.there = true;
        },
      });
      this.totals.succeeded += 1;
      return result;
    } catch (error) {
      const canceled = error instanceof CribError && error.code === "Canceled";
      this.totals[canceled ? "canceled" : "failed"] += 1;
      throw error;
    } finally {
      clearInterval(timer);
      this.#pulls.delete(pull);
      this.totals.seconds += (performance.now() - pull.since) / 1000;
    }
  }

  /**
   * A layer comes: `body` passes its bytes through `count`. Until it has ended, the layer shows in all
   * pulls that wait for it.
   */
  async download<T>(
    chainId: string,
    body: (count: (blob: AsyncIterable<Uint8Array>) => AsyncIterable<Uint8Array>) => Promise<T>,
  ): Promise<T> {
    this.#downloads.set(chainId, 0);
    try {
      const result = await body((blob) => this.#count(chainId, blob));
      this.totals.layers += 1;
      return result;
    } finally {
      this.#downloads.delete(chainId);
    }
  }

  async *#count(chainId: string, blob: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    let bytes = 0;
    for await (const chunk of blob) {
      bytes += chunk.length;
      this.totals.bytes += chunk.length;
      this.#downloads.set(chainId, bytes);
      yield chunk;
    }
  }

  /** The running pulls, the oldest first. */
  list(): PullView[] {
    return [...this.#pulls].map((pull) => this.#view(pull)).sort((a, b) => b.ageMs - a.ageMs);
  }

  #view({ image, since, layers, wanted }: Pull): PullView {
    const bytes = wanted.reduce(
      (sum, { chainId, size, there }) => sum + (there ? size : (this.#downloads.get(chainId) ?? 0)),
      0,
    );
    return {
      image,
      ageMs: Math.round(performance.now() - since),
      bytes,
      totalBytes: wanted.reduce((sum, { size }) => sum + size, 0),
      layers: layers - wanted.filter(({ there }) => !there).length,
      totalLayers: layers,
    };
  }
}
