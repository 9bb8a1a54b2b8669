/**
 * Image references, read and normalised as Docker does (distribution's reference grammar):
 * "busybox" is docker.io/library/busybox:latest.
 */
import { isShortName, type Registries, resolveShortName } from "../config/registries-conf.ts";
import { CribError } from "../error.ts";

export interface Reference {
  /** Host and port as users write it; Docker Hub is "docker.io". */
  readonly registry: string;
  /** Path below the registry: "library/busybox". */
  readonly repository: string;
  /** "latest" where the text has neither tag nor digest. */
  readonly tag?: string;
  /** "sha256:…" or "sha512:…". */
  readonly digest?: string;
}

const DEFAULT_REGISTRY = "docker.io";
const NAME_LIMIT = 255;

const HOST_LABEL = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
const REGISTRY = new RegExp(
  `^(?:${HOST_LABEL}(?:\\.${HOST_LABEL})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]{1,5})?$`,
);
const REPOSITORY =
  /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
const TAG = /^\w[\w.-]{0,127}$/;
const DIGEST = /^(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})$/;
const BARE_ID = /^[a-f0-9]{64}$/;

/** Whether `text` is a digest whose algorithm Crib can check. */
export function isDigest(text: string): boolean {
  return DIGEST.test(text);
}

/**
 * Reads a reference.
 *
 * @throws CribError InvalidArgument, naming the part that is wrong.
 */
export function parseReference(text: string): Reference {
  const wrong = (why: string) =>
    new CribError("InvalidArgument", `image reference ${JSON.stringify(text)}: ${why}`);
  if (text === "") throw wrong("it is empty");
  if (BARE_ID.test(text)) throw wrong("it is an image id, not a name");
  const at = text.indexOf("@");
  const digest = at < 0 ? undefined : text.slice(at + 1);
  if (digest !== undefined && !isDigest(digest)) throw wrong(`digest ${JSON.stringify(digest)}`);
  const named = at < 0 ? text : text.slice(0, at);
  const colon = named.indexOf(":", named.lastIndexOf("/") + 1);
  const tag = colon < 0 ? undefined : named.slice(colon + 1);
  if (tag !== undefined && !TAG.test(tag)) throw wrong(`tag ${JSON.stringify(tag)}`);
  const { registry, repository } = splitName(colon < 0 ? named : named.slice(0, colon));
  if (!REGISTRY.test(registry)) throw wrong(`registry ${JSON.stringify(registry)}`);
  if (!REPOSITORY.test(repository)) throw wrong(`repository ${JSON.stringify(repository)}`);
  if (registry.length + 1 + repository.length > NAME_LIMIT) {
    throw wrong(`the name is longer than ${NAME_LIMIT} characters`);
  }
  return {
    registry,
    repository,
    tag: tag ?? (digest === undefined ? "latest" : undefined),
    digest,
  };
}

/**
 * What a text may mean, in the order to try it: one reference, or for a short name those that
 * registries.conf names; Docker's rule where it names none.
 *
 * @throws CribError InvalidArgument: see `parseReference` and `resolveShortName`.
 */
export function referencesOf(text: string, registries: Registries): Reference[] {
  const asDocker = parseReference(text);
  if (!isShortName(text)) return [asDocker];
  const name = /^[^@:]*/.exec(text)?.[0] ?? "";
  const names = resolveShortName(registries, name);
  return names.length === 0
    ? [asDocker]
    : names.map((full) => parseReference(full + text.slice(name.length)));
}

function splitName(name: string): { registry: string; repository: string } {
  const slash = name.indexOf("/");
  const first = name.slice(0, Math.max(0, slash));
  const isRegistry = !isShortName(name);
  let registry = isRegistry ? first : DEFAULT_REGISTRY;
  let repository = isRegistry ? name.slice(slash + 1) : name;
  if (registry === "index.docker.io") registry = DEFAULT_REGISTRY;
  if (registry === DEFAULT_REGISTRY && !repository.includes("/")) {
    repository = `library/${repository}`;
  }
  return { registry, repository };
}

/** "docker.io/library/busybox". */
export function nameOf(reference: Reference): string {
  return `${reference.registry}/${reference.repository}`;
}

/**
 * The normalised text: "docker.io/library/busybox:latest". With a digest the tag is left out, since
 * the digest alone says what the image is.
 */
export function formatReference(reference: Reference): string {
  const name = nameOf(reference);
  return reference.digest === undefined
    ? `${name}:${reference.tag}`
    : `${name}@${reference.digest}`;
}
