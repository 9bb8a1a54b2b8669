/** Brings layers into the store: each one once, a few at a time. */
import { EventEmitter, once } from "node:events";
import { availableParallelism } from "node:os";
import { CribError } from "../error.ts";
import { log } from "../observe/log.ts";
import type { Layer, LayerStore } from "../storage/layers.ts";
import type { Usage } from "../storage/usage.ts";
import { type BlobSource, streamBlob } from "./blob.ts";
import type { ChildCommand } from "./confined-child.ts";
import { inheritInChild, type Unmentioned } from "./directory-inheritor.ts";
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
  /** The chainIDs of the layers below it, the nearest first. */
  below: readonly string[];
}

/** In its directory, but not in the store yet. */
interface UnpackedLayer {
  layer: Layer;
  unmentioned: Unmentioned;
}

export interface LayerPullerOptions {
  store: LayerStore;
  child: ChildCommand;
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
  /** Tells chainIDs of layers that have come into the store. */
  readonly #arrivals = new EventEmitter().setMaxListeners(0);

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
    const { store } = this.#options;
    while (!store.hold(holder, layer.chainId)) {
      const joined = this.#downloads.has(layer.chainId);
      try {
        await this.#downloads.join(layer.chainId, holder, signal, (jobSignal, holders) =>
          this.#bring(layer, clients, jobSignal, async (made) => {
            for (const below of layer.below) await this.#arrival(below, jobSignal);
            await this.#inherit(layer, made, jobSignal);
            store.commit(made.layer, holders);
            this.#arrivals.emit(layer.chainId);
          }),
        );
      } catch (error) {
        throwIfAborted(signal);
        if (!joined) throw error;
      }
    }
  }

  /**
   * Gets a layer that is there again, and puts it in the place of what is there.
   *
   * @throws CribError as `ensure` does; FailedPrecondition: one below it is not there. Then everything is
   *   as before.
   */
  async replace(
    layer: WantedLayer,
    clients: readonly BlobSource[],
    signal: AbortSignal,
  ): Promise<void> {
    const { store } = this.#options;
    const missing = layer.below.find((chainId) => !store.has(chainId));
    if (missing !== undefined) {
      throw new CribError(
        "FailedPrecondition",
        `layer ${missing}, below it, has to be there first`,
      );
    }
    await this.#bring(layer, clients, signal, async (made) => {
      await this.#inherit(layer, made, signal);
      await store.replace(made.layer);
    });
  }

  /** Unpacks a layer into a directory, which `use` makes a layer of the store; nothing is left when it fails. */
  async #bring(
    wanted: WantedLayer,
    clients: readonly BlobSource[],
    signal: AbortSignal,
    use: (made: UnpackedLayer) => Promise<void>,
  ): Promise<void> {
    const { store } = this.#options;
    const made = await this.#slots.run(signal, () => this.#fetch(wanted, clients, signal));
    try {
      // Outside of the slot: a layer below may need it.
      await use(made);
    } catch (error) {
      await store.discard(made.layer.directory);
      throw error;
    }
  }

  /** Damaged bytes of one registry (or mirror) are asked of the next. */
  async #fetch(
    layer: WantedLayer,
    clients: readonly BlobSource[],
    signal: AbortSignal,
  ): Promise<UnpackedLayer> {
    for (let first = 0; ; first++) {
      try {
        return await this.#unpack(layer, clients.slice(first), signal);
      } catch (error) {
        const damaged = error instanceof CribError && error.code === "DataLoss";
        if (!damaged || first + 1 >= clients.length) throw error;
        log().warn({ error: error.message }, "a layer came damaged: asking the next registry");
      }
    }
  }

  async #unpack(
    { chainId, diffId, descriptor }: WantedLayer,
    clients: readonly BlobSource[],
    signal: AbortSignal,
  ): Promise<UnpackedLayer> {
    const { store, child, maxBytes, maxEntries, noProgressMs, progress } = this.#options;
    const what = `layer ${descriptor.digest}`;
    const name = store.stage();
    try {
      const directory = store.path(name);
      const indexFile = store.indexFile(name);
      const blob = streamBlob(clients, descriptor, signal);
      const onUsage = (usage: Usage) => store.grow(name, usage);
      const limits = { maxBytes, maxEntries, noProgressMs };
      const unpack = { child, directory, indexFile, ...limits, onUsage, what };
      return await progress.download(chainId, async (count) => {
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
        return { layer: { chainId, diffId, directory: name, bytes, inodes }, unmentioned: done };
      });
    } catch (error) {
      await store.discard(name);
      throw error;
    }
  }

  /** Until the layer is in the store: who wants a layer wants those below it too, and brings them. */
  async #arrival(chainId: string, signal: AbortSignal): Promise<void> {
    const { store } = this.#options;
    try {
      while (!store.has(chainId)) await once(this.#arrivals, chainId, { signal });
    } catch (error) {
      throwIfAborted(signal);
      throw error;
    }
  }

  async #inherit(
    { below, descriptor }: WantedLayer,
    { layer, unmentioned }: UnpackedLayer,
    signal: AbortSignal,
  ): Promise<void> {
    const { store, child } = this.#options;
    const directories = below.flatMap((chainId) => store.get(chainId)?.directory ?? []);
    const options = {
      layer: store.path(layer.directory),
      indexFile: store.indexFile(layer.directory),
      below: directories.map((name) => store.path(name)),
      child,
      what: `layer ${descriptor.digest}`,
    };
    await inheritInChild(unmentioned, options, signal);
  }
}
