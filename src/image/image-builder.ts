/** Makes an image of what is known about it: brings its layers, then its row. */
import { createHash, randomUUID } from "node:crypto";
import type { Config } from "../config/config.ts";
import { CribError } from "../error.ts";
import type { LayerStore } from "../storage/layers.ts";
import type { BlobSource } from "./blob.ts";
import type { ChildCommand } from "./confined-child.ts";
import type { Image, ImageSource, ImageStore } from "./image-store.ts";
import { LayerPuller, type WantedLayer } from "./layer-puller.ts";
import type { Descriptor } from "./manifest.ts";
import type { Progress, PullProgress } from "./progress.ts";
import { noProgressMs } from "./registry-access.ts";
import type { ResolvedImage } from "./resolve.ts";

export interface ImageBuilderOptions {
  config: Config["image"];
  layers: LayerStore;
  store: ImageStore;
  child: ChildCommand;
  progress: Progress;
}

export interface Build {
  resolved: ResolvedImage;
  /** See `NewImage.names`. */
  names: string[];
  source: Pick<ImageSource, "name" | "signatures" | "pinned" | "transport">;
  progress: PullProgress;
  signal: AbortSignal;
}

export class ImageBuilder {
  readonly #layers: LayerStore;
  readonly #store: ImageStore;
  readonly #puller: LayerPuller;
  readonly #maxBytes: number;

  constructor({ config, layers, store, child, progress }: ImageBuilderOptions) {
    this.#layers = layers;
    this.#store = store;
    this.#maxBytes = config.max_layer_bytes;
    this.#puller = new LayerPuller({
      store: layers,
      child,
      maxParallel: config.max_parallel_layers,
      maxBytes: config.max_layer_bytes,
      maxEntries: config.max_layer_entries,
      noProgressMs: noProgressMs(config),
      progress,
    });
  }

  /**
   * Brings the layers that are not there from the first of `blobs` that has them, and commits the
   * image. Nothing is left when that fails.
   */
  async build(
    { resolved, names, source, progress, signal }: Build,
    blobs: readonly BlobSource[],
  ): Promise<Image> {
    const holder = `pull/${randomUUID()}`;
    try {
      const layers = wantedLayers(resolved);
      const missing = layers.filter(({ chainId }) => !this.#layers.has(chainId));
      for (const { descriptor } of missing) refuseTooLarge(descriptor, this.#maxBytes);
      progress.expect(
        layers.length,
        missing.map(({ chainId, descriptor: { size } }) => ({ chainId, size })),
      );
      await this.#fetchLayers(layers, signal, async (layer, all) => {
        await this.#puller.ensure(holder, layer, blobs, all);
        progress.have(layer.chainId);
      });
      return this.#store.add({
        id: resolved.id,
        configJson: resolved.configJson,
        config: resolved.config,
        annotations: resolved.manifest.annotations,
        layers: layers.map(({ chainId }) => chainId),
        names,
        source: {
          ...source,
          digests: resolved.digests,
          layers: resolved.manifest.layers.map(({ mediaType, digest, size }) => ({
            mediaType,
            digest,
            size,
          })),
        },
      });
    } finally {
      await this.#layers.release(holder);
    }
  }

  /** See `LayerPuller.replace`. */
  replaceLayer(
    layer: WantedLayer,
    blobs: readonly BlobSource[],
    signal: AbortSignal,
  ): Promise<void> {
    return this.#puller.replace(layer, blobs, signal);
  }

  /** All layers, or none: the first failure ends the others. */
  async #fetchLayers(
    layers: readonly WantedLayer[],
    signal: AbortSignal,
    fetchLayer: (layer: WantedLayer, signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    const controller = new AbortController();
    const all = AbortSignal.any([signal, controller.signal]);
    let failure: unknown;
    await Promise.all(
      layers.map(async (layer) => {
        try {
          await fetchLayer(layer, all);
        } catch (error) {
          failure ??= error;
          controller.abort(failure);
        }
      }),
    );
    if (failure !== undefined) throw failure;
  }
}

/** No compression makes a layer much longer than it is unpacked; what says so is not even begun. */
function refuseTooLarge({ digest, size }: Descriptor, maxBytes: number): void {
  if (size <= maxBytes) return;
  const why = `${size} bytes, at most ${maxBytes} (image.max_layer_bytes)`;
  throw new CribError("FailedPrecondition", `layer ${digest}: ${why}`);
}

/** Pairs layers with diffIDs and computes chainIDs (OCI image specification, "Layer ChainID"). */
function wantedLayers({ manifest, diffIds }: ResolvedImage): WantedLayer[] {
  let chainId = "";
  let below: readonly string[] = [];
  return manifest.layers.map((descriptor, index) => {
    const diffId = diffIds[index] ?? "";
    if (chainId !== "") below = [chainId, ...below];
    chainId =
      index === 0
        ? diffId
        : `sha256:${createHash("sha256").update(`${chainId} ${diffId}`).digest("hex")}`;
    return { chainId, diffId, descriptor, below };
  });
}
