/** Manifests, indexes and image configurations, checked as they come in. */
import * as v from "valibot";
import { CribError } from "../error.ts";
import { CONFIG_TYPES, DOCKER_LIST, LAYER_TYPES, OCI_INDEX } from "./media-types.ts";
import { isDigest } from "./reference.ts";

/** Bounds what one image may ask for; overlayfs takes about 300 layers of our name length. */
export const LAYER_LIMIT = 256;
/**
 * ListImages tells these of all images at once, in a message that the kubelet takes up to 16 MiB of.
 * Kubernetes itself allows an object that many bytes of annotations.
 */
const ANNOTATIONS_LIMIT_BYTES = 256 * 1024;
const USER_LIMIT = 4096;

const digest = v.pipe(v.string(), v.check(isDigest, "is not a sha256 or sha512 digest"));
/** What Crib hashes while it unpacks; nobody makes others. */
const diffId = v.pipe(v.string(), v.regex(/^sha256:[a-f0-9]{64}$/, "is not a sha256 digest"));
const annotations = v.optional(
  v.nullable(
    v.pipe(
      v.record(v.string(), v.string()),
      v.check(
        (record) =>
          Buffer.byteLength(Object.entries(record).flat().join("")) <= ANNOTATIONS_LIMIT_BYTES,
        `more than ${ANNOTATIONS_LIMIT_BYTES} bytes`,
      ),
    ),
  ),
);
const descriptorSchema = v.object({
  mediaType: v.string(),
  digest,
  size: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
  platform: v.optional(
    v.nullable(
      v.object({
        os: v.optional(v.string(), ""),
        architecture: v.optional(v.string(), ""),
        variant: v.optional(v.string(), ""),
      }),
    ),
  ),
});
const indexSchema = v.object({ manifests: v.array(descriptorSchema) });
const manifestSchema = v.object({
  config: descriptorSchema,
  layers: v.pipe(v.array(descriptorSchema), v.maxLength(LAYER_LIMIT)),
  annotations,
});

const strings = v.optional(v.nullable(v.array(v.string())));
const stringMap = v.optional(v.nullable(v.record(v.string(), v.string())));
const emptyObjects = v.optional(v.nullable(v.record(v.string(), v.unknown())));
const text = v.optional(v.nullable(v.string()));
const imageConfigSchema = v.object({
  Env: strings,
  Entrypoint: strings,
  Cmd: strings,
  WorkingDir: text,
  User: v.optional(v.nullable(v.pipe(v.string(), v.maxLength(USER_LIMIT)))),
  Volumes: emptyObjects,
  ExposedPorts: emptyObjects,
  StopSignal: text,
  Labels: stringMap,
});
const configSchema = v.object({
  os: text,
  architecture: text,
  variant: text,
  created: text,
  config: v.optional(v.nullable(imageConfigSchema)),
  rootfs: v.object({ type: v.literal("layers"), diff_ids: v.nullable(v.array(diffId)) }),
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
 * Reads a manifest or an index. `contentType` counts only where the document does not say itself.
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
  if (json.schemaVersion === 1) throw wrong("schema 1 manifests are not supported");
  if (json.schemaVersion !== 2) throw wrong("it is no image manifest (schemaVersion is not 2)");
  // One document read as two things is how signatures are circumvented (CVE-2021-41190).
  if ("manifests" in json && ("layers" in json || "config" in json)) {
    throw wrong("it is an index and a manifest at once");
  }
  const mediaType = typeof json.mediaType === "string" ? json.mediaType : contentType;
  if (mediaType === OCI_INDEX || mediaType === DOCKER_LIST || "manifests" in json) {
    return { kind: "index", manifests: read(indexSchema, json, what).manifests };
  }
  const manifest = read(manifestSchema, json, what);
  if (!CONFIG_TYPES.has(manifest.config.mediaType)) {
    throw wrong(`it is no container image: its config is ${printable(manifest.config.mediaType)}`);
  }
  for (const { mediaType: type } of manifest.layers) {
    if (/foreign|nondistributable/.test(type)) {
      throw wrong(`layer of type ${printable(type)}: foreign layers are not supported`);
    }
    if (!LAYER_TYPES.has(type)) throw wrong(`layer of type ${printable(type)} is not supported`);
  }
  return { ...manifest, kind: "image", annotations: manifest.annotations ?? {} };
}

/** Reads an image configuration. Throws a `CribError` FailedPrecondition. */
export function parseConfig(
  bytes: Uint8Array,
  what: string,
): { os: string; architecture: string; diffIds: string[]; config: ImageConfig } {
  const json = read(configSchema, parseJson(bytes, what), what);
  const { config } = json;
  return {
    os: json.os ?? "",
    architecture: json.architecture ?? "",
    diffIds: json.rootfs.diff_ids ?? [],
    config: {
      Env: config?.Env ?? [],
      Entrypoint: config?.Entrypoint ?? [],
      Cmd: config?.Cmd ?? [],
      WorkingDir: config?.WorkingDir ?? "",
      User: config?.User ?? "",
      Volumes: Object.keys(config?.Volumes ?? {}),
      ExposedPorts: Object.keys(config?.ExposedPorts ?? {}),
      StopSignal: config?.StopSignal ?? "",
      Labels: config?.Labels ?? {},
    },
  };
}

function parseJson(bytes: Uint8Array, what: string): Record<string, unknown> {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new CribError("FailedPrecondition", `${what}: it is not JSON`);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new CribError("FailedPrecondition", `${what}: it is not a JSON object`);
  }
  return json as Record<string, unknown>;
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
