/** The images of this node: pull, list, find, remove. */
import type { Database } from "bun:sqlite";
import { createHash } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Config } from "../config/config.ts";
import { policyPath, readPolicy } from "../config/policy.ts";
import { isShortName, type Registries, readRegistries } from "../config/registries-conf.ts";
import { CribError } from "../error.ts";
import { log } from "../observe/log.ts";
import { LayerStore } from "../storage/layers.ts";
import { sizeOfFiles } from "../storage/usage.ts";
import type { ChildCommand } from "./confined-child.ts";
import type { Auth } from "./credentials.ts";
import type { ImageDocuments } from "./image-documents.ts";
import { type Image, ImageStore } from "./image-store.ts";
import type { Importer, ImportOptions } from "./importer.ts";
import { pinnedBy } from "./pinned.ts";
import { Progress } from "./progress.ts";
import type { Puller } from "./puller.ts";
import { formatReference, parseReference, type Reference, referencesOf } from "./reference.ts";
import type { CheckReport, Repair } from "./repair.ts";
import { SharedWork } from "./shared-work.ts";

export type { Auth } from "./credentials.ts";
export type { Image } from "./image-store.ts";

export interface ImagesOptions {
  /** Where layers are kept: `<root>/layers`. */
  root: string;
  config: Config;
  database: Database;
  /** argv to run Crib again, paths that hold in any process: /proc/PID/exe, or Bun and the main file. */
  executable: readonly string[];
}

const scratchOf = (root: string) => join(root, "import");

/** Begins the names of sources that are archives. */
const ARCHIVE = "archive:";
/** An id is also found by its beginning, if it is as long as Docker's short ids. */
const ID_PREFIX = /^(?:sha256:)?([0-9a-f]{12,64})$/;

export class Images {
  readonly progress = new Progress();
  readonly #options: ImagesOptions;
  readonly #layers: LayerStore;
  readonly #store: ImageStore;
  readonly #pulls = new SharedWork<symbol, Image>();
  /** Takes archives while they are decompressed. */
  readonly #scratch: string;
  #workers: Promise<Workers> | undefined;

  private constructor(options: ImagesOptions, layers: LayerStore) {
    this.#options = options;
    this.#layers = layers;
    this.#scratch = scratchOf(options.root);
    this.#store = new ImageStore(options.database, pinnedBy(options.config.image.pinned));
  }

  /** Opens the store and deletes what a pull that was cut off has left. */
  static async open(options: ImagesOptions): Promise<Images> {
    const layers = new LayerStore(options);
    await layers.recover();
    await rm(scratchOf(options.root), { recursive: true, force: true });
    return new Images(options, layers);
  }

  /**
   * Pulls an image. Pulls of one reference with the same credentials are one; a layer is fetched once
   * for all pulls that want it. Nothing of a failed or cancelled pull is left, unless another pull uses
   * it.
   *
   * Codes: InvalidArgument (reference), NotFound, Unauthenticated, PermissionDenied (also: blocked; or
   * refused by policy.json, where the message begins with "SignatureValidationFailed"),
   * Unavailable (the message begins with "RegistryUnavailable", which the kubelet knows), DataLoss
   * (bytes that are not those of the digest, size or diffID; damaged compression), FailedPrecondition
   * (sound, but nothing that Crib can run: schema 1, encrypted layers, other platforms, broken manifests,
   * archives that must not be unpacked, a broken registries.conf), ResourceExhausted (disk full),
   * DeadlineExceeded (no progress), Canceled (`signal`).
   */
  async pull(
    text: string,
    {
      auth,
      namespace = "",
      signal = new AbortController().signal,
    }: { auth?: Partial<Auth>; namespace?: string; signal?: AbortSignal } = {},
  ): Promise<Image> {
    const registries = this.#registries();
    const references = referencesOf(text, registries);
    const secret = createHash("sha256")
      .update(JSON.stringify(auth ?? null))
      .digest("hex");
    // What one namespace's policy lets through is not yet let through by another's.
    const policy = this.#policyFile(namespace);
    const key = JSON.stringify([references.map(formatReference), secret, policy]);
    return this.#pulls.join(key, Symbol(text), signal, async (shared) => {
      const { puller } = await this.#load();
      const request = { references, registries, auth, namespace, signal: shared };
      return this.progress.run(text, (progress) => puller.pull({ ...request, progress }));
    });
  }

  /**
   * Brings the images of an archive or directory on this node into the store: an OCI layout, as a
   * directory or a tar, or what `docker save` writes; tars may be compressed with gzip or zstd.
   *
   * @throws CribError NotFound, FailedPrecondition (no such archive; refused by policy.json), and as `pull`.
   */
  async import(path: string, options: ImportOptions = {}): Promise<Image[]> {
    return (await this.#load()).importer.import(path, options);
  }

  /**
   * Looks for damaged layers: missing, additional or changed files (`fast`: not into files). With
   * `repair` each of them, and no other, is fetched again from where its images came from.
   */
  async check(
    options: { fast: boolean; repair: boolean },
    signal: AbortSignal = new AbortController().signal,
  ): Promise<CheckReport> {
    return (await this.#load()).repair.check({ ...options, signal });
  }

  /** The stamps of the archives below a directory that images came from; "" of one imported in part. */
  archiveStamps(directory: string): Map<string, string> {
    const stamps = this.#store.sourceStamps(`${ARCHIVE}${directory}/`);
    return new Map([...stamps].map(([name, stamp]) => [name.slice(ARCHIVE.length), stamp]));
  }

  /** An archive is gone: what it pinned is pinned by it no more. */
  forgetArchive(path: string): void {
    this.#store.forgetSource(`${ARCHIVE}${path}`, []);
  }

  /** Removes the images that are neither pinned nor `inUse`; returns them. */
  async prune(inUse: (imageId: string) => boolean): Promise<Image[]> {
    const unused = this.list().filter(({ id, pinned }) => !pinned && !inUse(id));
    for (const { id } of unused) this.#store.delete(id);
    await this.#layers.collect();
    return unused;
  }

  /** All images; the arrays inside must not be changed. */
  list(): Image[] {
    return this.#store.list();
  }

  /**
   * An image by id ("sha256:…" or bare), name:tag, name@digest (both normalised as Docker does, unless
   * registries.conf says what a short name stands for), or the
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

  /** What images say of themselves. */
  get documents(): ImageDocuments {
    return this.#store.documents;
  }

  /**
   * Whether all of its layers have their directories: one that the repair of a file system has taken is
   * brought back by a check, or by a pull.
   */
  isWhole({ layers }: Image): boolean {
    return layers.every((chainId) => this.#layers.has(chainId));
  }

  /** @throws CribError DataLoss: it is not whole (see `isWhole`); `what` names it in the message. */
  requireWhole({ layers }: Image, what: string): void {
    const missing = layers.find((chainId) => !this.#layers.has(chainId));
    if (missing === undefined) return;
    const remedy = "pull the image again, or repair it with crib images check";
    const why = `the directory of its layer ${missing} is missing: ${remedy}`;
    throw new CribError("DataLoss", `${what}: ${why}`);
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

  /**
   * Checks again, from what was kept at the pull, that policy.json (or the namespace's own policy) lets
   * an image be used. `text` is the name that the pod gives it; where that is none (an id, or empty),
   * one of the image's names must be accepted. Of an image that was imported it is enough that the
   * policy lets the archive be used, as when it was imported.
   *
   * @throws CribError as `requireTrust` does.
   */
  async verify(image: Image, text: string, namespace: string): Promise<void> {
    const { acceptsArchive, policyPaths, requireTrust, requirementsOf, wantSignatures } =
      await import("./trust.ts");
    const paths = policyPaths(this.#options.config.image);
    const archives = this.#store.sources(image.id, ARCHIVE);
    if (acceptsArchive(readPolicy(policyPath(paths, namespace)), archives)) return;
    let failure: unknown;
    for (const reference of this.#namesOf(image, text)) {
      try {
        const requirements = requirementsOf(paths, namespace, reference);
        // Signatures may be megabytes: they are read where somebody looks at them.
        const sources = wantSignatures(requirements) ? this.#store.sources(image.id) : [];
        return await requireTrust(requirements, reference, {
          digests: sources.flatMap(({ digests }) => digests),
          signatures: sources.flatMap(({ signatures }) => signatures),
        });
      } catch (error) {
        failure ??= error;
      }
    }
    throw failure;
  }

  #policyFile(namespace: string): string {
    const { policy: file, policy_dir: directory } = this.#options.config.image;
    return policyPath({ file, directory }, namespace);
  }

  /** The names to judge an image by; never none. */
  #namesOf(image: Image, text: string): Reference[] {
    const isId = text === "" || ID_PREFIX.test(text);
    if (!isId) {
      const meant = this.#references(text);
      const own = meant.filter(
        (reference) => this.#store.byName(formatReference(reference)) === image,
      );
      return own.length > 0 ? own : meant;
    }
    const names = [...image.repoTags, ...image.repoDigests].map(parseReference);
    // Its tags may all have moved on; then its id stands for a name that only a default can accept.
    return names.length > 0 ? names : [parseReference(`localhost/unnamed@${image.id}`)];
  }

  /**
   * What images take on disk: layers, including those that only containers still use, and those that are
   * being unpacked (as of a second ago) or deleted; their lists of files; archives that are being imported.
   */
  fsInfo(): { mountpoint: string; usedBytes: number; inodesUsed: number } {
    const { bytes, inodes } = this.#layers.usage();
    const scratch = sizeOfFiles(this.#scratch);
    return {
      mountpoint: this.#layers.directory,
      usedBytes: bytes + scratch.bytes,
      inodesUsed: inodes + scratch.inodes,
    };
  }

  #byName(text: string): Image | undefined {
    try {
      for (const reference of this.#references(text)) {
        const image = this.#store.byName(formatReference(reference));
        if (image !== undefined) return image;
      }
      return undefined;
    } catch (error) {
      if (error instanceof CribError && error.code === "InvalidArgument") return undefined;
      throw error;
    }
  }

  /** registries.conf is read only for names that it may give another meaning. */
  #references(text: string): Reference[] {
    return isShortName(text) ? referencesOf(text, this.#registries()) : [parseReference(text)];
  }

  #registries(): Registries {
    const { registries_conf: file, registries_conf_dir: directory } = this.#options.config.image;
    return readRegistries({ file, directory });
  }

  /** A daemon that was started again pulls nothing for now: the code for it is loaded late. */
  #load(): Promise<Workers> {
    this.#workers ??= this.#makeWorkers();
    return this.#workers;
  }

  async #makeWorkers(): Promise<Workers> {
    const [{ Bandwidth }, { ImageBuilder }, { Puller }, { Importer }, { Repair }, child] =
      await Promise.all([
        import("./bandwidth.ts"),
        import("./image-builder.ts"),
        import("./puller.ts"),
        import("./importer.ts"),
        import("./repair.ts"),
        this.#childCommand(),
      ]);
    const { config } = this.#options;
    const limit = config.image.download_limit_bytes_per_second;
    const options = {
      config: config.image,
      layers: this.#layers,
      store: this.#store,
      child,
      progress: this.progress,
      bandwidth: limit === 0 ? undefined : new Bandwidth(limit),
    };
    const builder = new ImageBuilder(options);
    const scratch = { directory: this.#scratch, maxBytes: config.image.max_layer_bytes };
    return {
      puller: new Puller({ ...options, builder }),
      importer: new Importer({ ...options, builder, scratch }),
      repair: new Repair({ ...options, builder, scratch }),
    };
  }

  async #childCommand(): Promise<ChildCommand> {
    const [{ childCommand }, { monitorBinary }] = await Promise.all([
      import("./confined-child.ts"),
      import("../monitor/binary.ts"),
    ]);
    const { config, executable, root } = this.#options;
    // Debian and systemd mount /run noexec.
    return childCommand(executable, () => monitorBinary(config.crib.state, root));
  }
}

interface Workers {
  puller: Puller;
  importer: Importer;
  repair: Repair;
}
