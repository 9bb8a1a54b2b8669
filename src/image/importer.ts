/** Images from archives on this node, for nodes without a registry. */
import { realpathSync } from "node:fs";
import type { Config } from "../config/config.ts";
import { readPolicy, requirementsForArchive } from "../config/policy.ts";
import { CribError } from "../error.ts";
import { log } from "../observe/log.ts";
import { type Archive, type ArchivedImage, namesOfArchived, openArchive } from "./archive.ts";
import type { ScratchOptions } from "./archive-files.ts";
import { stampOf } from "./archive-stamp.ts";
import type { ImageBuilder } from "./image-builder.ts";
import type { Image, ImageStore } from "./image-store.ts";
import { choose, describePlatform, hostPlatform, type Platform } from "./platform.ts";
import type { Progress } from "./progress.ts";
import { formatReference, nameOf, parseReference } from "./reference.ts";
import { requireTrust } from "./trust.ts";

export interface ImportOptions {
  /** For images that the archive gives no full name: "busybox", or with a tag for a single one. */
  name?: string;
  /**
   * They are pinned for as long as the archive is known as their source; what an earlier file of that
   * name pinned, and this one does not hold, is so no more once all of this one is imported.
   */
  pinned?: boolean;
  signal?: AbortSignal;
}

const sourceName = (path: string) => `archive:${path}`;

export class Importer {
  readonly #config: Config["image"];
  readonly #builder: ImageBuilder;
  readonly #store: ImageStore;
  readonly #scratch: ScratchOptions;
  readonly #progress: Progress;

  /** `scratch` takes archives while they are decompressed. */
  constructor(options: {
    config: Config["image"];
    builder: ImageBuilder;
    store: ImageStore;
    scratch: ScratchOptions;
    progress: Progress;
  }) {
    this.#config = options.config;
    this.#builder = options.builder;
    this.#store = options.store;
    this.#scratch = options.scratch;
    this.#progress = options.progress;
  }

  /** See `Images.import`. */
  async import(path: string, options: ImportOptions): Promise<Image[]> {
    const stamp = stampOf(path);
    const archive = await openArchive(path, this.#scratch);
    try {
      const platform = hostPlatform();
      const mine = forPlatform(archive.images, platform);
      if (mine.length === 0) {
        const why = `there is no image for ${platform.os}/${platform.architecture} in it`;
        throw new CribError("FailedPrecondition", `${path}: ${why}`);
      }
      const done = [];
      for (const image of mine) {
        done.push(await this.#importOne(archive, image, { ...options, path }));
      }
      // A later one may have taken a name from an earlier one.
      const images = [...new Map(done.map((image) => [image.id, image])).values()];
      if (options.pinned === true) {
        const ids = images.map(({ id }) => id);
        this.#store.completeSource(sourceName(path), stamp, ids);
      }
      return images;
    } finally {
      await archive.close();
    }
  }

  async #importOne(
    archive: Archive,
    archived: ArchivedImage,
    options: ImportOptions & { path: string },
  ): Promise<Image> {
    const { path, pinned = false, signal = new AbortController().signal } = options;
    const references = namesOfArchived(archived.name, options.name ?? "").map(parseReference);
    const resolved = await archived.resolve(hostPlatform(), signal);
    const shown = references[0] ?? parseReference(`localhost/unnamed@${resolved.id}`);
    const policy = readPolicy(this.#config.policy);
    const { transport } = archive;
    const requirements = requirementsForArchive(policy, transport, realpathSync(path));
    await requireTrust(requirements, shown, { digests: resolved.digests, signatures: [] });
    const names = references.flatMap((reference) => [
      ...(reference.digest === undefined ? [formatReference(reference)] : []),
      ...(resolved.digest === "" ? [] : [`${nameOf(reference)}@${resolved.digest}`]),
    ]);
    const name = sourceName(path);
    const source = {
      name,
      signatures: [],
      pinned: pinned || this.#pins(name, resolved.id),
      transport,
    };
    const image = await this.#progress.run(names[0] ?? resolved.id, (progress) =>
      this.#builder.build({ resolved, names, source, progress, signal }, [archive.source]),
    );
    log().info({ archive: path, imageId: image.id, names: image.repoTags }, "imported");
    return image;
  }

  /** An import by hand takes no pin away. */
  #pins(source: string, imageId: string): boolean {
    return this.#store.sources(imageId).some(({ name, pinned }) => name === source && pinned);
  }
}

/**
 * Of the images that have one name those for the best platform. Those without a name are different
 * images: which do not say what they are for are all taken.
 */
function forPlatform(images: readonly ArchivedImage[], wanted: Platform): ArchivedImage[] {
  const groups = Map.groupBy(images, ({ name }) => name);
  return [...groups].flatMap(([name, group]) => {
    const [best] = choose(group, wanted);
    return group.filter(
      (image) =>
        (best !== undefined && platformOf(image) === platformOf(best)) ||
        (name === "" && !image.platform),
    );
  });
}

const platformOf = ({ platform }: ArchivedImage) => platform && describePlatform(platform);
