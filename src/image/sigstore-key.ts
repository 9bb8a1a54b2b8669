import { createPublicKey, type KeyObject, verify } from "node:crypto";
import { CribError, messageOf } from "../error.ts";

/** Reads a public key as cosign writes it (PEM). Throws a `CribError` FailedPrecondition. */
export function readPublicKey(pem: Uint8Array, what: string): KeyObject {
  try {
    return createPublicKey(Buffer.from(pem));
  } catch (error) {
    throw new CribError("FailedPrecondition", `${what}: it is no public key: ${messageOf(error)}`);
  }
}

/** Whether the key made this signature over the payload: ECDSA or RSA (PKCS #1) with SHA-256, Ed25519. */
export function verifySigstore(
  key: KeyObject,
  payload: Uint8Array,
  signature: Uint8Array,
): boolean {
  const algorithm = key.asymmetricKeyType === "ed25519" ? null : "sha256";
  try {
    return verify(algorithm, payload, { key, dsaEncoding: "der" }, signature);
  } catch {
    return false;
  }
}
