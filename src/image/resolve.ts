/** From a reference to one image's manifest and configuration, over mirrors and indexes. */
import { createHash } from "node:crypto";
import { CribError } from "../error.ts";
import { log } from "../observe/log.ts";
import { type BlobSource, readBlob, retry } from "./blob.ts";
import {
  CONFIG_LIMIT_BYTES,
  type Descriptor,
  type ImageConfig,
  type ImageManifest,
  parseConfig,
  parseManifest,
} from "./manifest.ts";
import { choose, describePlatform, normalPlatform, type Platform } from "./platform.ts";
import { formatReference, isDigest, type Reference } from "./reference.ts";
import type { RegistryClient } from "./registry.ts";

const INDEX_DEPTH_LIMIT = 4;
/** Manifests and indexes that are read for one image: its own, and dead ends that say no platform. */
const MANIFEST_LIMIT = 32;
const ATTEMPTS = 4;

export interface ResolvedImage {
  /** Of the manifest or index that the reference itself leads to. */
  digest: string;
  /** `digest` and those below it, down to the manifest's. */
  digests: string[];
  manifest: ImageManifest;
  /** The configuration's digest: the image's id. */
  id: string;
  configJson: string;
  config: ImageConfig;
  diffIds: string[];
}

/** What manifests can be had from as well as blobs. */
export interface ManifestSource extends BlobSource {
  /** By tag or digest; the bytes are not yet checked. */
  manifest(reference: string): Promise<{ bytes: Buffer; mediaType: string; digest: string }>;
}

/**
 * Asks the registries in turn; the one that answered comes first in the result's `clients`. All but the last (the mirrors) get one try; the last is asked again when
 * it is not available.
 *
 * @throws CribError with the last registry's code and, in its message, what each of them said.
 *   Unavailable begins with "RegistryUnavailable", which the kubelet looks for.
 */
export async function resolveImage(
  reference: Reference,
  clients: readonly RegistryClient[],
  platform: Platform,
  signal: AbortSignal,
): Promise<ResolvedImage & { clients: RegistryClient[] }> {
  const failures: CribError[] = [];
  for (const client of clients) {
    const attempts = client === clients.at(-1) ? ATTEMPTS : 1;
    try {
      return await retry(attempts, signal, async () => ({
        ...(await resolveAt(
          client,
          reference.digest ?? reference.tag ?? "latest",
          platform,
          signal,
        )),
        clients: [client, ...clients.filter((other) => other !== client)],
      }));
    } catch (error) {
      if (signal.aborted || !(error instanceof CribError)) throw error;
      failures.push(error);
    }
  }
  throw pullError(reference, failures);
}

/** One error for what all registries said; the last one (no mirror) decides the code. */
export function pullError(reference: Reference, failures: readonly CribError[]): CribError {
  const code = failures.at(-1)?.code ?? "Internal";
  const prefix = code === "Unavailable" ? "RegistryUnavailable: " : "";
  const reasons = failures.map(({ message }) => message).join("; ");
  return new CribError(code, `${prefix}pull ${formatReference(reference)}: ${reasons}`, {
    cause: failures.at(-1),
  });
}

/** Reads what a tag or digest leads to at one source. Throws as `resolveImage`, but for the prefix. */
export async function resolveAt(
  client: ManifestSource,
  reference: string,
  platform: Platform,
  signal: AbortSignal,
): Promise<ResolvedImage> {
  const top = await fetchManifest(client, reference);
  const { manifest, digests } = await new Descent(client, platform).from(top, 1);
  const bytes = await readBlob([client], manifest.config, CONFIG_LIMIT_BYTES, signal);
  const what = `${client.name}: image config ${manifest.config.digest}`;
  const { config, diffIds, ...madeFor } = parseConfig(bytes, what);
  checkPlatform(madeFor, platform, what);
  if (diffIds.length !== manifest.layers.length) {
    throw new CribError(
      "FailedPrecondition",
      `${what}: ${diffIds.length} diffIDs for ${manifest.layers.length} layers`,
    );
  }
  return {
    digest: top.digest,
    digests,
    manifest,
    id: manifest.config.digest,
    configJson: new TextDecoder().decode(bytes),
    config,
    diffIds,
  };
}

/**
 * What an image's configuration says that it is for. Another architecture is no error, as in CRI-O:
 * there are images that say a wrong one.
 *
 * @throws CribError FailedPrecondition: for another operating system.
 */
export function checkPlatform(
  madeFor: { os: string; architecture: string },
  platform: Platform,
  what: string,
): void {
  const { os, architecture } = normalPlatform(madeFor);
  if (os !== "" && os !== platform.os) {
    throw new CribError("FailedPrecondition", `${what}: the image is for ${JSON.stringify(os)}`);
  }
  if (architecture === "" || architecture === platform.architecture) return;
  const fields = { config: what, image: architecture, machine: platform.architecture };
  log().warn(fields, "an image says that it is for another machine: it may not run");
}

interface Fetched {
  digest: string;
  document: ReturnType<typeof parseManifest>;
}

async function fetchManifest(client: ManifestSource, reference: string): Promise<Fetched> {
  const what = `${client.name}: manifest ${reference}`;
  const { bytes, mediaType, digest: claimed } = await client.manifest(reference);
  const expected = isDigest(reference) ? reference : claimed;
  const algorithm = isDigest(expected) ? expected.slice(0, expected.indexOf(":")) : "sha256";
  const digest = `${algorithm}:${createHash(algorithm).update(bytes).digest("hex")}`;
  if (isDigest(expected) && digest !== expected) {
    throw new CribError("DataLoss", `${what}: its bytes have digest ${digest}, not ${expected}`);
  }
  return { digest, document: parseManifest(bytes, mediaType, what) };
}

/** Follows indexes down to the manifest for the platform. */
class Descent {
  readonly #client: ManifestSource;
  readonly #platform: Platform;
  readonly #seen = new Set<string>();

  constructor(client: ManifestSource, platform: Platform) {
    this.#client = client;
    this.#platform = platform;
  }

  async from(
    { digest, document }: Fetched,
    depth: number,
  ): Promise<{ manifest: ImageManifest; digests: string[] }> {
    this.#seen.add(digest);
    if (document.kind === "image") return { manifest: document, digests: [digest] };
    const what = `${this.#client.name}: index ${digest}`;
    const wrong = (why: string) => new CribError("FailedPrecondition", `${what}: ${why}`);
    if (depth > INDEX_DEPTH_LIMIT) throw wrong(`more than ${INDEX_DEPTH_LIMIT} levels`);
    let failure: unknown;
    for (const candidate of choose(document.manifests, this.#platform)) {
      if (this.#seen.has(candidate.digest)) continue;
      if (this.#seen.size >= MANIFEST_LIMIT) throw wrong(`more than ${MANIFEST_LIMIT} manifests`);
      const next = await fetchManifest(this.#client, candidate.digest);
      try {
        const { manifest, digests } = await this.from(next, depth + 1);
        return { manifest, digests: [digest, ...digests] };
      } catch (error) {
        // An index without a platform may hold nothing for this one; the next candidate may.
        if (!(error instanceof CribError && error.code === "FailedPrecondition")) throw error;
        failure = error;
      }
    }
    throw failure ?? wrong(nothingFor(document.manifests, this.#platform));
  }
}

function nothingFor(entries: readonly Descriptor[], { os, architecture }: Platform): string {
  const offered = entries.slice(0, 20).flatMap((entry) => entry.platform ?? []);
  const list = offered
    .map(describePlatform)
    .join(", ")
    .replace(/[^\x20-\x7e]/g, "?");
  return `nothing for ${os}/${architecture}; it has ${list.slice(0, 500) || "no platforms"}`;
}
