/** Finds an image's signatures: beside the registry (lookaside), or in it (cosign's attachments). */
import * as v from "valibot";
import { goStruct, stringMap, text } from "../config/go-json.ts";
import { ifThere } from "../config/if-there.ts";
import type { SignatureStorage } from "../config/registries-d.ts";
import { parseStrictJson } from "../config/strict-json.ts";
import { CribError, messageOf } from "../error.ts";
import { readRegularFile } from "../linux/regular-file.ts";
import { readBlob, retry } from "./blob.ts";
import {
  REDIRECT_LIMIT,
  REDIRECTS,
  type RequestOptions,
  readBody,
  redirectTarget,
  request,
  UnavailableError,
} from "./http.ts";
import type { RegistryClient } from "./registry.ts";
import type { Signature } from "./signature.ts";
import { SIGNATURE_LIMIT_BYTES, SignatureList } from "./signature-list.ts";

const ATTEMPTS = 3;
const COSIGN_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE = "dev.cosignproject.cosign/signature";
const CERTIFICATE = "dev.sigstore.cosign/certificate";
const CHAIN = "dev.sigstore.cosign/chain";
const BUNDLE = "dev.sigstore.cosign/bundle";

const attachmentSchema = goStruct({
  layers: v.nullish(
    v.array(
      goStruct({
        mediaType: text,
        digest: v.pipe(v.string(), v.regex(/^sha256:[0-9a-f]{64}$/)),
        size: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
        annotations: stringMap,
      }),
    ),
    [],
  ),
});

/**
 * All signatures of the manifests with these digests.
 *
 * @throws CribError as requests do, DataLoss and FailedPrecondition for what cannot be one, and for more
 *   than may be kept.
 */
export async function findSignatures(
  storage: SignatureStorage,
  image: { client: RegistryClient; repository: string; digests: readonly string[] },
  http: Pick<RequestOptions, "tls" | "noProgressMs" | "signal">,
): Promise<Signature[]> {
  const found = new SignatureList();
  for (const digest of image.digests) {
    if (storage.lookaside !== "") {
      const base = `${storage.lookaside}/${image.repository}@${digest.replace(":", "=")}`;
      await fromLookaside(base, http, found);
    }
    if (storage.sigstoreAttachments) {
      await fromAttachments(image.client, digest, http.signal, found);
    }
  }
  return found.all;
}

async function fromLookaside(
  base: string,
  http: Pick<RequestOptions, "tls" | "noProgressMs" | "signal">,
  found: SignatureList,
): Promise<void> {
  for (let number = 1; ; number++) {
    const url = `${base}/signature-${number}`;
    const message = url.startsWith("file:")
      ? readLocal(decodeURIComponent(new URL(url).pathname))
      : await retry(ATTEMPTS, http.signal, () => download(url, http));
    if (message === undefined) return;
    found.add({ kind: "simple", message: message.toString("base64") }, url);
  }
}

function readLocal(path: string): Buffer | undefined {
  try {
    return ifThere(() => readRegularFile(path, SIGNATURE_LIMIT_BYTES));
  } catch (error) {
    throw new CribError("FailedPrecondition", `signature ${path}: ${messageOf(error)}`);
  }
}

/**
 * Redirects are followed, also to another host: what comes is believed only when it is signed. But a
 * server must not point at files of this machine, nor from https to plain http.
 */
async function download(
  url: string,
  http: Pick<RequestOptions, "tls" | "noProgressMs" | "signal">,
): Promise<Buffer | undefined> {
  const what = `signature ${url}`;
  let at = url;
  for (let hop = 0; hop <= REDIRECT_LIMIT; hop++) {
    const response = await request(at, http);
    const { status } = response;
    if (status === 200) return readBody(response, SIGNATURE_LIMIT_BYTES, what);
    response.discard();
    // Servers that must not list what they have answer 403 for what is not there.
    if (status === 404 || status === 403) return undefined;
    if (!REDIRECTS.includes(status)) throw new UnavailableError(`${what}: HTTP ${status}`);
    at = redirectTarget(response, () => false, what);
  }
  throw new CribError("FailedPrecondition", `${what}: more than ${REDIRECT_LIMIT} redirects`);
}

/** The tag sha256-HEX.sig: an image whose "layers" are payloads. */
async function fromAttachments(
  client: RegistryClient,
  digest: string,
  signal: AbortSignal,
  found: SignatureList,
): Promise<void> {
  const tag = `${digest.replace(":", "-")}.sig`;
  const what = `${client.name}:${tag}`;
  let bytes: Buffer;
  try {
    ({ bytes } = await retry(ATTEMPTS, signal, () => client.manifest(tag)));
  } catch (error) {
    if (error instanceof CribError && error.code === "NotFound") return;
    throw error;
  }
  for (const layer of readAttachments(bytes, what)) {
    const { annotations } = layer;
    const signature = annotations[SIGNATURE];
    if (layer.mediaType !== COSIGN_TYPE || signature === undefined) continue;
    const payload = await readBlob([client], layer, SIGNATURE_LIMIT_BYTES, signal);
    const { [CERTIFICATE]: certificate, [CHAIN]: chain, [BUNDLE]: bundle } = annotations;
    found.add(
      {
        kind: "sigstore",
        payload: payload.toString("base64"),
        signature,
        certificate,
        chain,
        bundle,
      },
      what,
    );
  }
}

function readAttachments(bytes: Buffer, what: string) {
  try {
    return v.parse(attachmentSchema, parseStrictJson(bytes.toString())).layers;
  } catch (error) {
    const why = `it is no manifest of signatures: ${messageOf(error).slice(0, 200)}`;
    throw new CribError("FailedPrecondition", `${what}: ${why}`);
  }
}
