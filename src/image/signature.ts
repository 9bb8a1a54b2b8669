/** Signatures of images, and what they say once their bytes are known to be genuine. */
import * as v from "valibot";
import { parseStrictJson } from "../config/strict-json.ts";
import { messageOf } from "../error.ts";

/** As it was found: nothing in it is trusted yet. Bytes in base64. */
export type Signature =
  /** An OpenPGP message that holds its payload (container-signature(5)). */
  | { kind: "simple"; message: string }
  /**
   * Cosign's: a payload and a signature over it; maybe the certificate of who made it and those above
   * (PEM), and what the transparency log Rekor says of it (JSON).
   */
  | SigstoreSignature;

export interface SigstoreSignature {
  kind: "sigstore";
  payload: string;
  signature: string;
  certificate?: string;
  chain?: string;
  bundle?: string;
}

/** Why a signature does not count; the message is shown. */
export class SignatureError extends Error {
  override readonly name = "SignatureError";
}

/** What a signature vouches for. */
export interface Claim {
  /** Of the manifest. */
  digest: string;
  /** The image's name. */
  reference: string;
}

const TYPES = {
  simple: "atomic container signature",
  sigstore: "cosign container image signature",
} as const;

/**
 * Reads the payload of a signature that was found genuine.
 *
 * @throws SignatureError: it has anything in "critical" that is not understood.
 */
export function parsePayload(bytes: Uint8Array, kind: Signature["kind"]): Claim {
  const schema = v.strictObject({
    critical: v.strictObject({
      type: v.literal(TYPES[kind]),
      image: v.strictObject({ "docker-manifest-digest": v.string() }),
      identity: v.strictObject({ "docker-reference": v.string() }),
    }),
    optional: v.optional(v.nullable(v.record(v.string(), v.unknown()))),
  });
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    const { critical } = v.parse(schema, parseStrictJson(text));
    return {
      digest: critical.image["docker-manifest-digest"],
      reference: critical.identity["docker-reference"],
    };
  } catch (error) {
    throw new SignatureError(`signature payload: ${messageOf(error)}`);
  }
}
