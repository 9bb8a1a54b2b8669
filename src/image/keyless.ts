/** Sigstore signatures by certificates instead of keys; loaded only where a policy wants them. */
import { createPublicKey, type KeyObject } from "node:crypto";
import type { X509Certificate } from "@sigstore/core";
import { messageOf } from "../error.ts";
import { emailsOf, isForHost, readChain, requireChain } from "./certificate-chain.ts";
import { integratedTime } from "./rekor.ts";
import { SignatureError, type SigstoreSignature } from "./signature.ts";
import { verifySigstore } from "./sigstore-key.ts";

/** OpenID issuer, the old form (the bare text) and the new (a DER UTF8String). */
const ISSUER_V1 = "1.3.6.1.4.1.57264.1.1";
const ISSUER_V2 = "1.3.6.1.4.1.57264.1.8";

/** PEM texts instead of paths. */
export interface FulcioTrust {
  kind: "fulcio";
  ca: string;
  oidcIssuer: string;
  subjectEmail: string;
  logKeys: readonly KeyObject[];
}
export interface PkiTrust {
  kind: "pki";
  roots: string;
  intermediates: string;
  subjectEmail: string | undefined;
  subjectHostname: string | undefined;
}

/**
 * Returns when a certificate that is trusted made the signature over its payload: with Fulcio one that
 * was valid when the log took it in, else one that is valid now. Fulcio's own log of certificates (SCT)
 * is not asked: as in the containers tools, the time that Rekor's log tells is what counts.
 *
 * @throws SignatureError: why not.
 */
export function verifyKeyless(signature: SigstoreSignature, trust: FulcioTrust | PkiTrust): void {
  try {
    requireKeyless(signature, trust);
  } catch (error) {
    if (error instanceof SignatureError) throw error;
    // The parser of certificates stumbles over extensions that are not built as they should be.
    const why = `a certificate is not understood: ${messageOf(error)}`;
    throw new SignatureError(why, { cause: error });
  }
}

function requireKeyless(signature: SigstoreSignature, trust: FulcioTrust | PkiTrust): void {
  if (signature.certificate === undefined) throw new SignatureError("it has no certificate");
  const [leaf, ...more] = readChain(signature.certificate, "its certificate");
  if (leaf === undefined || more.length > 0) {
    throw new SignatureError("its certificate is not one in PEM");
  }
  const intermediates = readChain(signature.chain ?? "", "its chain");
  if (trust.kind === "fulcio") {
    const at = integratedTime(signature, leaf.root.toDER(), trust.logKeys);
    requireChain(leaf, { roots: readChain(trust.ca, "fulcio"), intermediates, at });
    requireIssuer(leaf, trust.oidcIssuer);
  } else {
    intermediates.push(...readChain(trust.intermediates, "pki"));
    const roots = readChain(trust.roots, "pki");
    requireChain(leaf, { roots, intermediates, at: new Date() });
  }
  requireSubject(leaf, trust);
  const [payload, bytes] = [signature.payload, signature.signature].map((text) =>
    Buffer.from(text, "base64"),
  ) as [Buffer, Buffer];
  const key = createPublicKey({ key: leaf.publicKey, format: "der", type: "spki" });
  if (!verifySigstore(key, payload, bytes)) {
    throw new SignatureError("made by another key than its certificate's, or changed");
  }
}

function requireSubject(
  leaf: X509Certificate,
  { subjectEmail, ...rest }: FulcioTrust | PkiTrust,
): void {
  const emails = emailsOf(leaf);
  if (subjectEmail !== undefined && !emails.includes(subjectEmail)) {
    throw new SignatureError(`its certificate is for ${JSON.stringify(emails)}`);
  }
  const host = "subjectHostname" in rest ? rest.subjectHostname : undefined;
  if (host !== undefined && !isForHost(leaf, host)) {
    throw new SignatureError(`its certificate is not for the host ${host}`);
  }
}

function requireIssuer(leaf: X509Certificate, wanted: string): void {
  const old = leaf.extension(ISSUER_V1)?.value.toString("utf8");
  const now = leaf.extension(ISSUER_V2)?.valueObj.subs[0]?.value.toString("utf8");
  const issuers = [old, now].filter((issuer) => issuer !== undefined);
  if (issuers.length > 0 && issuers.every((issuer) => issuer === wanted)) return;
  throw new SignatureError(`its certificate is by the OpenID issuer ${JSON.stringify(issuers)}`);
}
