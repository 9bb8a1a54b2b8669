/** What the transparency log Rekor promised about a signature (its "signed entry timestamp"), offline. */
import { createHash, type KeyObject, verify, X509Certificate } from "node:crypto";
import * as v from "valibot";
import { parseStrictJson } from "../config/strict-json.ts";
import { messageOf } from "../error.ts";
import { SignatureError, type SigstoreSignature } from "./signature.ts";
import { readPublicKey } from "./sigstore-key.ts";

const base64 = v.pipe(v.string(), v.nonEmpty(), v.base64());
const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const bundleSchema = v.object({
  SignedEntryTimestamp: base64,
  Payload: v.strictObject({
    body: base64,
    integratedTime: count,
    logIndex: count,
    logID: v.pipe(v.string(), v.regex(/^[0-9a-f]+$/)),
  }),
});
const entrySchema = v.object({
  apiVersion: v.literal("0.0.1"),
  kind: v.literal("hashedrekord"),
  spec: v.object({
    signature: v.object({ content: base64, publicKey: v.object({ content: base64 }) }),
    data: v.object({
      hash: v.object({
        algorithm: v.literal("sha256"),
        value: v.pipe(v.string(), v.hexadecimal()),
      }),
    }),
  }),
});

/**
 * When the log took the signature in. `signer` is what it was made with, a certificate or a public key,
 * as DER.
 *
 * @throws SignatureError: there is no promise, no such log made it, or it is about something else.
 */
export function integratedTime(
  signature: SigstoreSignature,
  signer: Buffer,
  logKeys: readonly KeyObject[],
): Date {
  if (signature.bundle === undefined) throw new SignatureError("it has no entry of a Rekor log");
  const { SignedEntryTimestamp: promise, Payload } = parse(bundleSchema, signature.bundle);
  const { body, integratedTime: seconds, logID, logIndex } = Payload;
  // Canonical JSON (RFC 8785): sorted, and none of these values needs more than JSON does.
  const signed = Buffer.from(JSON.stringify({ body, integratedTime: seconds, logID, logIndex }));
  const bytes = Buffer.from(promise, "base64");
  if (!logKeys.some((key) => verify("sha256", signed, { key, dsaEncoding: "der" }, bytes))) {
    throw new SignatureError("its entry is by another Rekor log, or changed");
  }
  const entry = parse(entrySchema, Buffer.from(body, "base64").toString("utf8"));
  requireSame(entry, signature, signer);
  return new Date(seconds * 1000);
}

function requireSame(
  { spec }: v.InferOutput<typeof entrySchema>,
  signature: SigstoreSignature,
  signer: Buffer,
): void {
  const digest = createHash("sha256")
    .update(Buffer.from(signature.payload, "base64"))
    .digest("hex");
  const same =
    spec.data.hash.value === digest &&
    decode(spec.signature.content).equals(decode(signature.signature)) &&
    derOf(decode(spec.signature.publicKey.content)).equals(signer);
  if (!same) throw new SignatureError("its Rekor entry is about another signature");
}

const decode = (text: string) => Buffer.from(text, "base64");

export const derOfKey = (key: KeyObject) =>
  Buffer.from(key.export({ type: "spki", format: "der" }));

/** Of the one PEM block, a certificate or a public key. */
function derOf(pem: Buffer): Buffer {
  try {
    return pem.includes("-----BEGIN CERTIFICATE-----")
      ? new X509Certificate(pem).raw
      : derOfKey(readPublicKey(pem, "rekor"));
  } catch (error) {
    throw new SignatureError(`its Rekor entry: ${messageOf(error)}`);
  }
}

function parse<Schema extends v.GenericSchema>(
  schema: Schema,
  text: string,
): v.InferOutput<Schema> {
  try {
    return v.parse(schema, parseStrictJson(text));
  } catch (error) {
    throw new SignatureError(`its Rekor entry is not understood: ${messageOf(error)}`);
  }
}
