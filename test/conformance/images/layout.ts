import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { type TarEntry, writeTar } from "./tar.ts";

/** The part of an OCI image configuration that a stand-in sets. */
export interface StandInConfig {
  Entrypoint?: string[];
  Cmd?: string[];
  Env?: string[];
  User?: string;
  ExposedPorts?: Record<string, object>;
  StopSignal?: string;
  Labels?: Record<string, string>;
}

interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
}

/** An OCI image layout (image-spec, image-layout.md) on disk that images are added to. */
export class Layout {
  readonly #directory: string;
  readonly #layers = new Map<TarEntry[], { descriptor: Descriptor; diffId: string }>();
  readonly #manifests: object[] = [];

  constructor(directory: string) {
    this.#directory = directory;
    mkdirSync(join(directory, "blobs/sha256"), { recursive: true });
    writeFileSync(join(directory, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
  }

  /** Adds an image under the name `reference`; layers given before are stored once. */
  add(reference: string, layers: TarEntry[][], config: StandInConfig): void {
    const stored = layers.map((layer) => this.#addLayer(layer));
    const image = this.#addJson("application/vnd.oci.image.config.v1+json", {
      created: "1970-01-01T00:00:00Z",
      architecture: process.arch === "arm64" ? "arm64" : "amd64",
      os: "linux",
      config: {
        Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        ...config,
      },
      rootfs: { type: "layers", diff_ids: stored.map((it) => it.diffId) },
      history: stored.map(() => ({ created_by: "stand-in for critest" })),
    });
    const mediaType = "application/vnd.oci.image.manifest.v1+json";
    const manifest = this.#addJson(mediaType, {
      schemaVersion: 2,
      mediaType,
      config: image,
      layers: stored.map((it) => it.descriptor),
    });
    const annotations = { "org.opencontainers.image.ref.name": reference };
    this.#manifests.push({ ...manifest, annotations });
    writeFileSync(
      join(this.#directory, "index.json"),
      JSON.stringify({ schemaVersion: 2, manifests: this.#manifests }),
    );
  }

  #addLayer(entries: TarEntry[]): { descriptor: Descriptor; diffId: string } {
    const known = this.#layers.get(entries);
    if (known !== undefined) return known;
    const tar = writeTar(entries);
    const mediaType = "application/vnd.oci.image.layer.v1.tar+gzip";
    const layer = {
      descriptor: this.#addBlob(mediaType, gzipSync(tar)),
      diffId: digestOf(tar),
    };
    this.#layers.set(entries, layer);
    return layer;
  }

  #addJson(mediaType: string, value: object): Descriptor {
    return this.#addBlob(mediaType, new TextEncoder().encode(JSON.stringify(value)));
  }

  #addBlob(mediaType: string, content: Uint8Array): Descriptor {
    const digest = digestOf(content);
    writeFileSync(join(this.#directory, "blobs/sha256", digest.slice("sha256:".length)), content);
    return { mediaType, digest, size: content.length };
  }
}

function digestOf(content: Uint8Array): string {
  return `sha256:${createHash("sha256").update(content).digest("hex")}`;
}
