/** Manifests, indexes and image configurations, checked as they come in. */
import * as v from "valibot";
import {
  folded,
  goStruct,
  isObject,
  namesOfMap,
  stringMap,
  strings,
  text,
} from "../config/go-json.ts";
import { parseStrictJson } from "../config/strict-json.ts";
import { CribError, messageOf } from "../error.ts";
import { CONFIG_TYPES, isIndexType, LAYER_TYPES } from "./media-types.ts";
import { isDigest } from "./reference.ts";

/** Bounds what one image may ask for; overlayfs takes about 300 layers of our name length. */
export const LAYER_LIMIT = 256;
/** Two for each platform is usual. */
const INDEX_LIMIT = 1000;
/** Kubernetes itself allows an object that many bytes of annotations. */
const ANNOTATIONS_LIMIT_BYTES = 256 * 1024;
/** Most have some KB; the largest in use, with lists of all that is in the image as labels, some 100. */
export const CONFIG_LIMIT_BYTES = 1024 * 1024;
const USER_LIMIT = 4096;
/** Images in use have a handful, three or four levels deep; each becomes directories and a bind mount. */
const VOLUMES_LIMIT = 128;
const VOLUME_DEPTH_LIMIT = 32;
/** Linux's PATH_MAX, its NUL included. */
const PATH_LIMIT_BYTES = 4095;

const digest = v.pipe(v.string(), v.check(isDigest, "is not a sha256 or sha512 digest"));
/** What Crib hashes while it unpacks; nobody makes others. */
const diffId = v.pipe(v.string(), v.regex(/^sha256:[a-f0-9]{64}$/, "is not a sha256 digest"));
const annotations = v.pipe(
  stringMap,
  v.check(
    (record) =>
      Buffer.byteLength(Object.entries(record).flat().join("")) <= ANNOTATIONS_LIMIT_BYTES,
    `more than ${ANNOTATIONS_LIMIT_BYTES} bytes`,
  ),
);
export const platformSchema = v.nullish(goStruct({ os: text, architecture: text, variant: text }));
/**
 * Strict: digest and size decide what is fetched, and how much of it. containerd takes a descriptor without
 * a size and then fetches whatever comes. 1e3 is 1000, which Go does not read: it can mean nothing else.
 * `urls` are not looked at: an image must not send a node to other hosts (containerd asks them first);
 * nor is `data`, for what it holds is in the registry as well.
 */
const descriptorSchema = goStruct({
  mediaType: text,
  digest,
  size: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
  platform: platformSchema,
});
/** What this machine does not choose need not be anything that it understands. */
const entries = v.pipe(
  v.nullish(v.pipe(v.array(v.unknown()), v.maxLength(INDEX_LIMIT)), []),
  v.transform((list) =>
    list.flatMap((entry) => {
      const read = v.safeParse(descriptorSchema, entry);
      return read.success ? [read.output] : [];
    }),
  ),
);
const indexSchema = goStruct({ manifests: entries });
const manifestSchema = goStruct({
  config: descriptorSchema,
  layers: v.nullish(v.pipe(v.array(descriptorSchema), v.maxLength(LAYER_LIMIT)), []),
  annotations,
});
const headSchema = goStruct({ schemaVersion: v.nullish(v.number(), 0), mediaType: text });

const imageConfigSchema = goStruct({
  Env: strings,
  Entrypoint: strings,
  Cmd: strings,
  WorkingDir: text,
  User: v.nullish(v.pipe(v.string(), v.maxLength(USER_LIMIT)), ""),
  Volumes: namesOfMap,
  ExposedPorts: namesOfMap,
  StopSignal: text,
  Labels: stringMap,
});
/** `created`, `author` and `history` are for people: containerd refuses a date that is none, Crib does not read it. */
const configSchema = goStruct({
  os: text,
  architecture: text,
  config: v.nullish(imageConfigSchema, {}),
  rootfs: v.nullish(
    goStruct({
      // Not looked at by the peers; but others ("layers+base") gave diff_ids another meaning.
      type: v.nullish(v.picklist(["", "layers"]), ""),
      diff_ids: v.nullish(v.array(diffId), []),
    }),
    {},
  ),
});

export type Descriptor = v.InferOutput<typeof descriptorSchema>;

/** What an image says about running it; every field is there, empty where the image says nothing. */
export interface ImageConfig {
  Env: string[];
  Entrypoint: string[];
  Cmd: string[];
  WorkingDir: string;
  User: string;
  /** Paths. */
  Volumes: string[];
  /** "80/tcp". */
  ExposedPorts: string[];
  StopSignal: string;
  Labels: Record<string, string>;
}

/** The part of it that containers are made from. */
export type RunConfig = Omit<ImageConfig, "ExposedPorts" | "Labels">;

export function runConfigOf({ ExposedPorts: _, Labels: __, ...run }: ImageConfig): RunConfig {
  return run;
}

export interface ImageManifest {
  kind: "image";
  config: Descriptor;
  layers: Descriptor[];
  annotations: Record<string, string>;
}
export interface ImageIndex {
  kind: "index";
  manifests: Descriptor[];
}

/**
 * Reads a manifest or an index. `contentType` counts only where the document does not say itself: servers
 * of static files do not know it.
 *
 * @throws CribError FailedPrecondition: not one, or of a kind that Crib does not run.
 */
export function parseManifest(
  bytes: Uint8Array,
  contentType: string,
  what: string,
): ImageManifest | ImageIndex {
  const json = parseJson(bytes, what);
  const wrong = (why: string) => new CribError("FailedPrecondition", `${what}: ${why}`);
  const { schemaVersion, mediaType: ownType } = read(headSchema, json, what);
  if (schemaVersion === 1) throw wrong("schema 1 manifests are not supported");
  // The peers do not look at it; but what a version to come means is not known.
  if (schemaVersion !== 0 && schemaVersion !== 2) {
    throw wrong(`it is no image manifest (schemaVersion is ${schemaVersion})`);
  }
  // One document read as two things is how signatures are circumvented (CVE-2021-41190).
  const has = fieldsOf(json);
  const isManifest = has("layers") || has("config");
  if (has("manifests") && isManifest) throw wrong("it is an index and a manifest at once");
  if (has("fsLayers") || has("history"))
    throw wrong("it is a schema 1 manifest and another at once");
  const saysIndex = isIndexType(ownType);
  if (ownType !== "" && (saysIndex ? isManifest : has("manifests"))) {
    throw wrong(`it says that it is ${printable(ownType)}, and is not`);
  }
  if (saysIndex || has("manifests") || (!isManifest && isIndexType(contentType))) {
    return { kind: "index", manifests: read(indexSchema, json, what).manifests };
  }
  const manifest = read(manifestSchema, json, what);
  if (!CONFIG_TYPES.has(manifest.config.mediaType)) {
    throw wrong(`it is no container image: its config is ${printable(manifest.config.mediaType)}`);
  }
  for (const { mediaType: type } of manifest.layers) {
    // Attestations and encrypted layers are no archives; containerd refuses them as well.
    if (!LAYER_TYPES.has(type)) throw wrong(`layer of type ${printable(type)} is not supported`);
  }
  return { ...manifest, kind: "image" };
}

/** Whether a document has a field, in any case, that is not null. */
function fieldsOf(json: Record<string, unknown>): (name: string) => boolean {
  const there = Object.keys(json).filter((name) => json[name] !== null);
  const all = new Set(there.map(folded));
  return (name) => all.has(folded(name));
}

/** What an image's configuration says of where it runs, of its layers, and of its containers. */
export interface ParsedConfig {
  os: string;
  architecture: string;
  diffIds: string[];
  config: ImageConfig;
}

/** Reads the configuration of an image that is to be taken. Throws a `CribError` FailedPrecondition. */
export function parseConfig(bytes: Uint8Array, what: string): ParsedConfig {
  const wrong = (why: string) => new CribError("FailedPrecondition", `${what}: ${why}`);
  if (bytes.length > CONFIG_LIMIT_BYTES) {
    throw wrong(`${bytes.length} bytes, at most ${CONFIG_LIMIT_BYTES}`);
  }
  const parsed = readConfig(parseJson(bytes, what), what);
  const { Volumes } = parsed.config;
  if (Volumes.length > VOLUMES_LIMIT) {
    throw wrong(`config.Volumes: ${Volumes.length} of them, at most ${VOLUMES_LIMIT}`);
  }
  for (const path of Volumes) {
    const depth = path.split("/").filter((part) => part !== "").length;
    if (Buffer.byteLength(path) > PATH_LIMIT_BYTES) {
      const why = `longer than ${PATH_LIMIT_BYTES} bytes`;
      throw wrong(`config.Volumes: ${printable(path)}: ${why}`);
    }
    if (depth > VOLUME_DEPTH_LIMIT) {
      const why = `${depth} directories deep, at most ${VOLUME_DEPTH_LIMIT}`;
      throw wrong(`config.Volumes: ${printable(path)}: ${why}`);
    }
  }
  return parsed;
}

/** What a configuration says, also one that would be taken no more. Throws a `CribError` FailedPrecondition. */
export function readConfig(json: unknown, what: string): ParsedConfig {
  const { os, architecture, config, rootfs } = read(configSchema, json, what);
  return { os, architecture, diffIds: rootfs.diff_ids, config };
}

/**
 * Bytes that are no UTF-8 become U+FFFD, as with Go's decoder: old images have an author in Latin-1. What
 * matters (digests, names, sizes) has none of them.
 */
function parseJson(bytes: Uint8Array, what: string): Record<string, unknown> {
  let json: unknown;
  try {
    json = parseStrictJson(new TextDecoder().decode(bytes));
  } catch (error) {
    const why = `it is not JSON that can be used: ${printable(messageOf(error))}`;
    throw new CribError("FailedPrecondition", `${what}: ${why}`);
  }
  if (isObject(json)) return json;
  throw new CribError("FailedPrecondition", `${what}: it is not a JSON object`);
}

function read<T>(schema: v.GenericSchema<unknown, T>, json: unknown, what: string): T {
  const result = v.safeParse(schema, json);
  if (result.success) return result.output;
  const issue = result.issues[0];
  throw new CribError(
    "FailedPrecondition",
    `${what}: ${v.getDotPath(issue) ?? "document"}: ${printable(issue.message)}`,
  );
}

const printable = (value: string) => JSON.stringify(value.slice(0, 200));
