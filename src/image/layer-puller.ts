/** Brings layers into the store: each one once, a few at a time. */
import { availableParallelism } from "node:os";
import { CribError } from "../error.ts";
import { log } from "../observe/log.ts";
import type { Layer, LayerStore } from "../storage/layers.ts";
import type { Usage } from "../storage/usage.ts";
import { type BlobSource, streamBlob } from "./blob.ts";
import { throwIfAborted } from "./http.ts";
import type { Descriptor } from "./manifest.ts";
import type { Progress } from "./progress.ts";
import { Semaphore } from "./semaphore.ts";
import { SharedWork } from "./shared-work.ts";
import { unpackLayer } from "./unpacker.ts";
import { WindowTurns } from "./window-turns.ts";

/** Each takes up to 27 MB, one of them 53 MB (`WindowTurns`), and all with the daemon less than 200 MB. */
const CHILD_LIMIT = 4;

export interface WantedLayer {
  chainId: string;
  diffId: string;
  descriptor: Descriptor;
}

export interface LayerPullerOptions {
  store: LayerStore;
  /** argv to run Crib again. */
  executable: readonly string[];
  /** Over all pulls. */
  maxParallel: number;
  maxBytes: number;
  maxEntries: number;
  noProgressMs: number;
  progress: Progress;
}

export class LayerPuller {
  readonly #options: LayerPullerOptions;
  readonly #downloads = new SharedWork<string, void>();
  readonly #slots: Semaphore;
  readonly #windows = new WindowTurns();

  constructor(options: LayerPullerOptions) {
    this.#options = options;
    // More children than processors take memory, and the daemon's turn, without being faster.
    const most = Math.min(CHILD_LIMIT, availableParallelism() + 1);
    this.#slots = new Semaphore(Math.min(options.maxParallel, most));
  }

  /**
   * Makes sure that the layer is in the store and held by `holder`. When another pull already fetches
   * it, that download is joined; when that one fails, this one tries its own registries.
   */
  async ensure(
    holder: string,
    layer: WantedLayer,
    clients: readonly BlobSource[],
    signal: AbortSignal,
  ): Promise<void> {
    while (!this.#options.store.hold(holder, layer.chainId)) {
      const joined = this.#downloads.has(layer.chainId);
      try {
        await this.#downloads.join(layer.chainId, holder, signal, (jobSignal, holders) =>
          this.#slots.run(jobSignal, () => this.#fetch(layer, clients, jobSignal, holders)),
        );
      } catch (error) {
        throwIfAborted(signal);
        if (!joined) throw error;
      }
    }
  }

  /** Damaged bytes of one registry (or mirror) are asked of the next. */
  async #fetch(
    layer: WantedLayer,
    clients: readonly BlobSource[],
    signal: AbortSignal,
    holders: ReadonlySet<string>,
  ): Promise<void> {
    for (let first = 0; ; first++) {
      try {
        return await this.#fetchOnce(layer, clients.slice(first), signal, holders);
      } catch (error) {
        const damaged = error instanceof CribError && error.code === "DataLoss";
        if (!damaged || first + 1 >= clients.length) throw error;
        log().warn({ error: error.message }, "a layer came damaged: asking the next registry");
      }
    }
  }

  /**
   * Gets a layer that is there again, and puts it in the place of what is there.
   *
   * @throws CribError as `ensure` does; then everything is as before.
   */
  async replace(
    layer: WantedLayer,
    clients: readonly BlobSource[],
    signal: AbortSignal,
  ): Promise<void> {
    const { store } = this.#options;
    await this.#slots.run(signal, () =>
      this.#unpack(layer, clients, signal, (unpacked) => store.replace(unpacked)),
    );
  }

  #fetchOnce(
    layer: WantedLayer,
    clients: readonly BlobSource[],
    signal: AbortSignal,
    holders: ReadonlySet<string>,
  ): Promise<void> {
    const { store } = this.#options;
    return this.#unpack(layer, clients, signal, async (made) => store.commit(made, holders));
  }

  async #unpack(
    layer: WantedLayer,
    clients: readonly BlobSource[],
    signal: AbortSignal,
    commit: (layer: Layer) => Promise<void>,
  ): Promise<void> {
    const { store, executable, maxBytes, maxEntries, noProgressMs, progress } = this.#options;
    const { chainId, diffId, descriptor } = layer;
    const what = `layer ${descriptor.digest}`;
    const name = store.stage();
    try {
      const directory = store.path(name);
      const indexFile = store.indexFile(name);
      const blob = streamBlob(clients, descriptor, signal);
      const onUsage = (usage: Usage) => store.grow(name, usage);
      const limits = { maxBytes, maxEntries, noProgressMs };
      const unpack = { executable, directory, indexFile, ...limits, onUsage, what };
      await progress.download(chainId, async (count) => {
        const done = await this.#windows.run(count(blob), what, signal, (bytes) =>
          unpackLayer(bytes, unpack, signal),
        );
        if (done.diffId !== diffId) {
          throw new CribError(
            "DataLoss",
            `${what}: unpacks to ${done.diffId}, but the image's config says ${diffId}`,
          );
        }
        throwIfAborted(signal);
        const { bytes, inodes } = done;
        await commit({ chainId, diffId, directory: name, bytes, inodes });
      });
    } catch (error) {
      await store.discard(name);
      throw error;
    }
  }
}
