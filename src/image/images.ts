/** The images of this node: pull, list, find, remove. */
import type { Database } from "bun:sqlite";
import { createHash, randomUUID } from "node:crypto";
import type { Config } from "../config/config.ts";
import { readRegistries, sourcesOf } from "../config/registries-conf.ts";
import { CribError } from "../error.ts";
import { log } from "../observe/log.ts";
import { LayerStore } from "../storage/layers.ts";
import { type Auth, toCredentials } from "./credentials.ts";
import { type Image, ImageStore } from "./image-store.ts";
import { LayerPuller, type WantedLayer } from "./layer-puller.ts";
import { pinnedBy } from "./pinned.ts";
import { hostPlatform } from "./platform.ts";
import { formatReference, nameOf, parseReference, type Reference } from "./reference.ts";
import { RegistryClient } from "./registry.ts";
import { pullError, type ResolvedImage, resolveImage } from "./resolve.ts";
import { SharedWork } from "./shared-work.ts";

export type { Auth } from "./credentials.ts";
export type { Image } from "./image-store.ts";
export type { ImageConfig } from "./manifest.ts";

export interface ImagesOptions {
  /** Where layers are kept: `<root>/layers`. */
  root: string;
  config: Config;
  database: Database;
  /** argv to run Crib again, absolute paths: ["/proc/self/exe"], or Bun and the main file. */
  executable: readonly string[];
}

/** An id is also found by its beginning, if it is as long as Docker's short ids. */
const ID_PREFIX = /^(?:sha256:)?([0-9a-f]{12,64})$/;
/** Stands for "never" in a timer. */
const NEVER_MS = 2 ** 31 - 1;

export class Images {
  readonly #config: Config["image"];
  readonly #layers: LayerStore;
  readonly #store: ImageStore;
  readonly #puller: LayerPuller;
  readonly #pulls = new SharedWork<symbol, Image>();

  private constructor(options: ImagesOptions, layers: LayerStore) {
    this.#config = options.config.image;
    this.#layers = layers;
    this.#store = new ImageStore(options.database, pinnedBy(this.#config.pinned));
    this.#puller = new LayerPuller({
      store: layers,
      executable: options.executable,
      maxParallel: this.#config.max_parallel_layers,
      maxBytes: this.#config.max_layer_bytes,
      maxEntries: this.#config.max_layer_entries,
      noProgressMs: this.#noProgressMs(),
    });
  }

  /** Opens the store and deletes what a pull that was cut off has left. */
  static async open(options: ImagesOptions): Promise<Images> {
    const layers = new LayerStore(options);
    await layers.recover();
    return new Images(options, layers);
  }

  /**
   * Pulls an image. Pulls of one reference with the same credentials are one; a layer is fetched once
   * for all pulls that want it. Nothing of a failed or cancelled pull is left, unless another pull uses
   * it.
   *
   * Codes: InvalidArgument (reference), NotFound, Unauthenticated, PermissionDenied (also: blocked),
   * Unavailable (the message begins with "RegistryUnavailable", which the kubelet knows), DataLoss
   * (bytes that are not those of the digest, size or diffID; damaged compression), FailedPrecondition
   * (sound, but nothing that Crib can run: schema 1, foreign layers, other platforms, broken manifests,
   * archives that must not be unpacked, a broken registries.conf), ResourceExhausted (disk full),
   * DeadlineExceeded (no progress), Canceled (`signal`).
   */
  async pull(
    text: string,
    {
      auth,
      signal = new AbortController().signal,
    }: { auth?: Partial<Auth>; signal?: AbortSignal } = {},
  ): Promise<Image> {
    const reference = parseReference(text);
    const secret = createHash("sha256")
      .update(JSON.stringify(auth ?? null))
      .digest("hex");
    const key = `${formatReference(reference)} ${secret}`;
    return this.#pulls.join(key, Symbol(text), signal, (shared) =>
      this.#pull(reference, auth, shared),
    );
  }

  /** All images; the arrays inside must not be changed. */
  list(): Image[] {
    return this.#store.list();
  }

  /**
   * An image by id ("sha256:…" or bare), name:tag, name@digest (both normalised as Docker does), or the
   * beginning of an id, at least 12 digits, that only one image has. In this order.
   */
  find(text: string): Image | undefined {
    const id = ID_PREFIX.exec(text)?.[1];
    const whole = id === undefined ? undefined : this.#store.get(`sha256:${id}`);
    if (whole !== undefined) return whole;
    const named = this.#byName(text);
    if (named !== undefined || id === undefined) return named;
    const matches = this.list().filter((image) => image.id.startsWith(`sha256:${id}`));
    return matches.length === 1 ? matches[0] : undefined;
  }

  /**
   * Removes the image that `text` leads to (see `find`), with all of its names. No error when there is
   * none. Layers that a container or another image uses stay until that is gone.
   */
  async remove(text: string): Promise<void> {
    const image = this.find(text);
    if (image === undefined) return;
    this.#store.delete(image.id);
    log().info({ imageId: image.id, names: image.repoTags }, "image removed");
    await this.#layers.collect();
  }

  /** What all layers take on disk, including those that only containers still use. */
  fsInfo(): { mountpoint: string; usedBytes: number; inodesUsed: number } {
    const total = { mountpoint: this.#layers.directory, usedBytes: 0, inodesUsed: 0 };
    for (const { bytes, inodes } of this.#layers.list()) {
      total.usedBytes += bytes;
      total.inodesUsed += inodes;
    }
    return total;
  }

  #byName(text: string): Image | undefined {
    try {
      return this.#store.byName(formatReference(parseReference(text)));
    } catch (error) {
      if (error instanceof CribError && error.code === "InvalidArgument") return undefined;
      throw error;
    }
  }

  async #pull(
    reference: Reference,
    auth: Partial<Auth> | undefined,
    signal: AbortSignal,
  ): Promise<Image> {
    const startedAt = performance.now();
    const clients = this.#clients(reference, auth, signal);
    const resolved = await resolveImage(reference, clients, hostPlatform(), signal);
    const holder = `pull/${randomUUID()}`;
    try {
      const layers = wantedLayers(resolved);
      await this.#fetchLayers(reference, holder, layers, resolved.clients, signal);
      const names = [`${nameOf(reference)}@${resolved.digest}`];
      if (reference.digest === undefined) names.push(formatReference(reference));
      const image = this.#store.add({
        id: resolved.id,
        configJson: resolved.configJson,
        annotations: resolved.manifest.annotations,
        layers: layers.map(({ chainId }) => chainId),
        names,
      });
      const durationMs = Math.round(performance.now() - startedAt);
      log().info({ image: formatReference(reference), imageId: image.id, durationMs }, "pulled");
      return image;
    } finally {
      await this.#layers.release(holder);
    }
  }

  #clients(
    reference: Reference,
    auth: Partial<Auth> | undefined,
    signal: AbortSignal,
  ): RegistryClient[] {
    const rules = readRegistries({
      file: this.#config.registries_conf,
      directory: this.#config.registries_conf_dir,
    });
    const credentials = toCredentials(auth, reference.registry);
    return sourcesOf(rules, reference).map(
      (source) =>
        new RegistryClient({
          source,
          // They are for the registry that the image's name names, not for its mirrors.
          credentials: source.mirror ? undefined : credentials,
          noProgressMs: this.#noProgressMs(),
          signal,
        }),
    );
  }

  /** All layers, or none: the first failure ends the others. */
  async #fetchLayers(
    reference: Reference,
    holder: string,
    layers: readonly WantedLayer[],
    clients: readonly RegistryClient[],
    signal: AbortSignal,
  ): Promise<void> {
    const controller = new AbortController();
    const all = AbortSignal.any([signal, controller.signal]);
    let failure: unknown;
    await Promise.all(
      layers.map(async (layer) => {
        try {
          await this.#puller.ensure(holder, layer, clients, all);
        } catch (error) {
          failure ??= error;
          controller.abort(failure);
        }
      }),
    );
    if (failure === undefined) return;
    if (signal.aborted || !(failure instanceof CribError)) throw failure;
    throw pullError(reference, [failure]);
  }

  #noProgressMs(): number {
    const seconds = this.#config.no_progress_timeout_seconds;
    return seconds === 0 ? NEVER_MS : seconds * 1000;
  }
}

/** Pairs layers with diffIDs and computes chainIDs (OCI image specification, "Layer ChainID"). */
function wantedLayers({ manifest, diffIds }: ResolvedImage): WantedLayer[] {
  let chainId = "";
  return manifest.layers.map((descriptor, index) => {
    const diffId = diffIds[index] ?? "";
    chainId =
      index === 0
        ? diffId
        : `sha256:${createHash("sha256").update(`${chainId} ${diffId}`).digest("hex")}`;
    return { chainId, diffId, descriptor };
  });
}
