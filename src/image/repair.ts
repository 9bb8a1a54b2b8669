/** Checks the layers of all images, and gets damaged ones again: each alone, not its images. */
import type { Config } from "../config/config.ts";
import { type Registries, readRegistries } from "../config/registries-conf.ts";
import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import type { Layer, LayerStore } from "../storage/layers.ts";
import { type Archive, openArchive } from "./archive.ts";
import type { ScratchOptions } from "./archive-files.ts";
import type { Bandwidth } from "./bandwidth.ts";
import type { BlobSource } from "./blob.ts";
import type { ChildCommand } from "./confined-child.ts";
import type { ImageBuilder } from "./image-builder.ts";
import type { ImageSource, ImageStore } from "./image-store.ts";
import { checkLayers } from "./layer-checker.ts";
import { hostPlatform } from "./platform.ts";
import { parseReference } from "./reference.ts";
import { registryClients } from "./registry-access.ts";

export interface DamagedLayer {
  chainId: string;
  problems: string[];
  repaired: boolean;
  /** Why it was not repaired. */
  reason: string;
}

export interface CheckReport {
  checkedLayers: number;
  damaged: DamagedLayer[];
}

export interface RepairOptions {
  config: Config["image"];
  layers: LayerStore;
  child: ChildCommand;
  store: ImageStore;
  builder: ImageBuilder;
  scratch: ScratchOptions;
  bandwidth: Bandwidth | undefined;
}

export class Repair {
  readonly #options: RepairOptions;

  constructor(options: RepairOptions) {
    this.#options = options;
  }

  /** One layer at a time: a check is not in a hurry, and pods want the disk too. */
  async check(options: {
    fast: boolean;
    repair: boolean;
    signal: AbortSignal;
  }): Promise<CheckReport> {
    const { layers, child } = this.#options;
    const report: CheckReport = { checkedLayers: 0, damaged: [] };
    const wanted = layers.list().filter(({ chainId }) => !layers.isRetired(chainId));
    const byName = new Map(wanted.map(({ directory, chainId }) => [directory, chainId]));
    const directories = { layers: layers.directory, indexes: layers.indexDirectory };
    const { fast, repair, signal } = options;
    const checked = checkLayers([...byName.keys()], { child, ...directories, fast }, signal);
    for await (const { name, problems } of checked) {
      // It may have gone, or been replaced, meanwhile.
      const layer = layers.get(byName.get(name) ?? "");
      if (layer?.directory !== name) continue;
      report.checkedLayers += 1;
      if (problems.length === 0) continue;
      const { chainId } = layer;
      log().error({ chainId, problems }, "a layer is damaged");
      const reason = repair ? await this.#repair(layer, signal) : "not tried";
      report.damaged.push({ chainId, problems, repaired: reason === "", reason });
    }
    return report;
  }

  /** Returns "" or why it did not work. */
  async #repair(layer: Layer, signal: AbortSignal): Promise<string> {
    const reasons: string[] = [];
    for (const { source, position, below } of this.#origins(layer.chainId)) {
      const descriptor = source.layers[position];
      if (descriptor === undefined) continue;
      try {
        await this.#from(source, signal, (blobs) =>
          this.#options.builder.replaceLayer({ ...layer, descriptor, below }, blobs, signal),
        );
        log().info({ chainId: layer.chainId, source: source.name }, "a layer is repaired");
        return "";
      } catch (error) {
        // Whatever it is: the other layers want to be looked at too.
        reasons.push(`${messageOf(error)}${hintFor(error)}`);
      }
    }
    const reason = reasons.join("; ") || "nobody knows where it came from";
    log().error({ chainId: layer.chainId, reason }, "a damaged layer cannot be repaired");
    return reason;
  }

  /** Where the layer's images came from, which of their layers it is, and what is below it. */
  #origins(chainId: string): Array<{ source: ImageSource; position: number; below: string[] }> {
    const { store } = this.#options;
    return store.list().flatMap(({ id, layers }) => {
      const position = layers.indexOf(chainId);
      if (position < 0) return [];
      const below = layers.slice(0, position).reverse();
      return store.sources(id).map((source) => ({ source, position, below }));
    });
  }

  async #from(
    source: ImageSource,
    signal: AbortSignal,
    use: (blobs: readonly BlobSource[]) => Promise<void>,
  ): Promise<void> {
    const { config, scratch, bandwidth } = this.#options;
    if (source.name.startsWith("archive:")) {
      const archive = await openArchive(source.name.slice("archive:".length), scratch);
      try {
        await learnLayers(archive, signal);
        return await use([archive.source]);
      } finally {
        await archive.close();
      }
    }
    const reference = parseReference(source.name);
    const request = { reference, auth: undefined, bandwidth, signal };
    await use(registryClients(config, this.#registries(), request));
  }

  #registries(): Registries {
    const { registries_conf: file, registries_conf_dir: directory } = this.#options.config;
    return readRegistries({ file, directory });
  }
}

/**
 * An archive of `docker save` learns its layers' names when its images are read. One that cannot be
 * read may be none that matters: if it is, its layer will not be found.
 */
async function learnLayers({ images, source }: Archive, signal: AbortSignal): Promise<void> {
  for (const image of images) {
    try {
      await image.resolve(hostPlatform(), signal);
    } catch (error) {
      if (signal.aborted || !(error instanceof CribError)) throw error;
      const fields = { archive: source.name, image: image.name, error: error.message };
      log().debug(fields, "an image of the archive cannot be read: passed over");
    }
  }
}

function hintFor(error: unknown): string {
  const refused =
    error instanceof CribError && ["Unauthenticated", "PermissionDenied"].includes(error.code);
  return refused
    ? " (credentials of a pull are not kept: put them into image.auth_file, or remove and pull the image)"
    : "";
}
