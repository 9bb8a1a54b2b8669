/** What is in an image archive: OCI image layouts and the archives of `docker save`. */
import { createHash } from "node:crypto";
import { readSync, statSync } from "node:fs";
import * as v from "valibot";
import { goStruct, stringMap, strings } from "../config/go-json.ts";
import type { ArchiveTransport } from "../config/policy.ts";
import { parseStrictJson } from "../config/strict-json.ts";
import { CribError, messageOf } from "../error.ts";
import {
  type ArchiveFiles,
  openArchiveFiles,
  readPlace,
  type ScratchOptions,
} from "./archive-files.ts";
import { detectCompression } from "./decoder.ts";
import { type Descriptor, LAYER_LIMIT, parseConfig, platformSchema } from "./manifest.ts";
import type { Platform } from "./platform.ts";
import { isDigest, parseReference } from "./reference.ts";
import { checkPlatform, type ManifestSource, type ResolvedImage, resolveAt } from "./resolve.ts";

const DOCUMENT_LIMIT_BYTES = 4 * 1024 * 1024;
const IMAGE_LIMIT = 1000;

/** One image of an archive. */
export interface ArchivedImage {
  /** As the archive writes it: "busybox:1", "1"; "" when it says none. */
  name: string;
  /** What the archive's index says that it is for. */
  platform: Descriptor["platform"];
  resolve(platform: Platform, signal: AbortSignal): Promise<ResolvedImage>;
}

export interface Archive {
  transport: ArchiveTransport;
  images: ArchivedImage[];
  source: ManifestSource;
  close(): Promise<void>;
}

/** Each is an image to be imported: one that is not understood must not be missing without a word. */
const indexSchema = goStruct({
  manifests: v.nullish(
    v.pipe(
      v.array(
        goStruct({
          digest: v.pipe(v.string(), v.check(isDigest, "is not a sha256 or sha512 digest")),
          annotations: stringMap,
          platform: platformSchema,
        }),
      ),
      v.maxLength(IMAGE_LIMIT),
    ),
    [],
  ),
});
const savedSchema = v.pipe(
  v.array(goStruct({ Config: v.string(), RepoTags: strings, Layers: strings })),
  v.maxLength(IMAGE_LIMIT),
);

/**
 * Opens an archive or a directory; see `openArchiveFiles`. What its images need is read later.
 *
 * @throws CribError FailedPrecondition: neither of the formats, or broken.
 */
export async function openArchive(path: string, scratch: ScratchOptions): Promise<Archive> {
  const files = await openArchiveFiles(path, scratch);
  try {
    const archive = { source: new LayoutSource(path, files), close: () => files.close() };
    const index = readDocument(files, "index.json", path);
    if (index !== undefined) {
      const { manifests } = parse(indexSchema, index, `${path}: index.json`);
      const source = archive.source;
      const transport = statSync(path).isDirectory() ? "oci" : "oci-archive";
      return { ...archive, transport, images: fromIndex(manifests, source) };
    }
    const saved = readDocument(files, "manifest.json", path);
    if (saved !== undefined) {
      const list = parse(savedSchema, saved, `${path}: manifest.json`);
      const images = fromSaved(list, archive.source, files);
      if (images.length > IMAGE_LIMIT) {
        const why = `${images.length} names of images, at most ${IMAGE_LIMIT}`;
        throw new CribError("FailedPrecondition", `${path}: ${why}`);
      }
      return { ...archive, transport: "docker-archive", images };
    }
    throw new CribError(
      "FailedPrecondition",
      `${path}: neither an OCI image layout (index.json) nor an archive of docker save (manifest.json)`,
    );
  } catch (error) {
    await files.close();
    throw error;
  }
}

function readDocument(files: ArchiveFiles, name: string, path: string): Buffer | undefined {
  const place = files.find(name);
  if (place === undefined) return undefined;
  try {
    if (place.size > DOCUMENT_LIMIT_BYTES) {
      const why = `${place.size} bytes, at most ${DOCUMENT_LIMIT_BYTES}`;
      throw new CribError("FailedPrecondition", `${path}: ${name}: ${why}`);
    }
    return readAll(place);
  } finally {
    place.done();
  }
}

function readAll(place: { fd: number; offset: number; size: number }): Buffer {
  const bytes = Buffer.alloc(place.size);
  let length = 0;
  while (length < bytes.length) {
    const count = readSync(place.fd, bytes, length, bytes.length - length, place.offset + length);
    if (count === 0) break;
    length += count;
  }
  return bytes.subarray(0, length);
}

function parse<T>(schema: v.GenericSchema<unknown, T>, bytes: Buffer, what: string): T {
  const wrong = (why: string) =>
    new CribError("FailedPrecondition", `${what}: ${why.slice(0, 300)}`);
  let json: unknown;
  try {
    json = parseStrictJson(bytes.toString("utf8"));
  } catch (error) {
    throw wrong(`it is not JSON that can be used: ${messageOf(error)}`);
  }
  const result = v.safeParse(schema, json);
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw wrong(`${v.getDotPath(issue) ?? "document"}: ${issue.message}`);
}

/** Blobs and manifests by digest. */
class LayoutSource implements ManifestSource {
  readonly name: string;
  readonly #files: ArchiveFiles;
  /** Blobs of `docker save` have other names. */
  readonly places = new Map<string, string>();

  constructor(path: string, files: ArchiveFiles) {
    this.name = path;
    this.#files = files;
  }

  async manifest(digest: string) {
    const name = blobName(digest);
    const bytes = readDocument(this.#files, name, this.name);
    if (bytes === undefined) throw this.#missing(name);
    return { bytes, mediaType: "", digest };
  }

  async blob(digest: string, offset: number) {
    const name = this.places.get(digest) ?? blobName(digest);
    const place = this.#files.find(name);
    if (place === undefined) throw this.#missing(name);
    async function* chunks(found: NonNullable<typeof place>) {
      try {
        yield* readPlace(found, offset);
      } finally {
        found.done();
      }
    }
    return { offset, response: { chunks: () => chunks(place) } };
  }

  #missing(name: string): CribError {
    return new CribError("FailedPrecondition", `${this.name}: ${name} is missing`);
  }
}

const blobName = (digest: string) => `blobs/${digest.replace(":", "/")}`;

type IndexEntry = v.InferOutput<typeof indexSchema>["manifests"][number];

function fromIndex(entries: readonly IndexEntry[], source: ManifestSource): ArchivedImage[] {
  return entries
    .filter(({ platform }) => platform?.os !== "unknown")
    .map(({ digest, annotations, platform }) => ({
      name: nameFrom(annotations),
      platform: platform?.os || platform?.architecture ? platform : undefined,
      resolve: (wanted: Platform, signal: AbortSignal) => resolveAt(source, digest, wanted, signal),
    }));
}

/** containerd's and BuildKit's full name, else OCI's, which may be a tag only. */
function nameFrom(annotations: Readonly<Record<string, string>>): string {
  return (
    annotations["io.containerd.image.name"] ??
    annotations["org.opencontainers.image.ref.name"] ??
    ""
  );
}

type Saved = v.InferOutput<typeof savedSchema>[number];

function fromSaved(
  list: readonly Saved[],
  source: LayoutSource,
  files: ArchiveFiles,
): ArchivedImage[] {
  return list.flatMap((saved) =>
    (saved.RepoTags.length > 0 ? saved.RepoTags : [""]).map((name) => ({
      name,
      platform: undefined,
      resolve: (wanted) => resolveSaved(saved, source, files, wanted),
    })),
  );
}

/** An archive of `docker save` has no manifest: this makes what one would say. */
async function resolveSaved(
  saved: Saved,
  source: LayoutSource,
  files: ArchiveFiles,
  platform: Platform,
): Promise<ResolvedImage> {
  const what = `${source.name}: ${saved.Config}`;
  const bytes = readDocument(files, saved.Config, source.name);
  if (bytes === undefined) throw new CribError("FailedPrecondition", `${what} is missing`);
  const { config, diffIds, ...madeFor } = parseConfig(bytes, what);
  checkPlatform(madeFor, platform, what);
  const id = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
  const names = saved.Layers;
  if (names.length !== diffIds.length) {
    const why = `${diffIds.length} diffIDs for ${names.length} layers`;
    throw new CribError("FailedPrecondition", `${what}: ${why}`);
  }
  if (names.length > LAYER_LIMIT) {
    const why = `${names.length} layers, at most ${LAYER_LIMIT}`;
    throw new CribError("FailedPrecondition", `${what}: ${why}`);
  }
  const layers = [];
  for (const [index, name] of names.entries()) {
    const { digest, size } = await describeLayer(files, name, diffIds[index] ?? "", source.name);
    source.places.set(digest, name);
    layers.push({ mediaType: "application/vnd.oci.image.layer.v1.tar", digest, size });
  }
  const descriptor = { mediaType: "application/vnd.oci.image.config.v1+json", digest: id };
  return {
    digest: "",
    digests: [],
    manifest: {
      kind: "image",
      config: { ...descriptor, size: bytes.length },
      layers,
      annotations: {},
    },
    id,
    configJson: new TextDecoder().decode(bytes),
    config,
    diffIds,
  };
}

/** A layer that is not compressed has its diffID as digest; of another the digest is computed. */
async function describeLayer(
  files: ArchiveFiles,
  name: string,
  diffId: string,
  path: string,
): Promise<{ digest: string; size: number }> {
  const place = files.find(name);
  if (place === undefined) throw new CribError("FailedPrecondition", `${path}: ${name} is missing`);
  try {
    const magic = readAll({ ...place, size: Math.min(4, place.size) });
    if (detectCompression(magic) === "none") return { digest: diffId, size: place.size };
    const hash = createHash("sha256");
    for await (const chunk of readPlace(place, 0)) hash.update(chunk);
    return { digest: `sha256:${hash.digest("hex")}`, size: place.size };
  } finally {
    place.done();
  }
}

/**
 * The full names for an image of an archive: its own where that is one, else `given`, to which a bare
 * tag is added.
 *
 * @throws CribError InvalidArgument: `given` is no reference.
 */
export function namesOfArchived(own: string, given: string): string[] {
  const isTag = /^\w[\w.-]{0,127}$/.test(own);
  if (given !== "") {
    const hasTag = /[:@]/.test(given.slice(given.lastIndexOf("/") + 1));
    return [isTag && !hasTag ? `${given}:${own}` : given];
  }
  if (own === "" || isTag) return [];
  parseReference(own);
  return [own];
}
