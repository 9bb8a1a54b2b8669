/** From a policy's requirement, with the keys and certificates it names, to a check of signatures. */
import type { KeyObject } from "node:crypto";
import type { Requirement } from "../config/policy.ts";
import { CribError, messageOf } from "../error.ts";
import { readRegularFile } from "../linux/regular-file.ts";
import { verifyOpenPgp } from "./gpg.ts";
import type { FulcioTrust, PkiTrust } from "./keyless.ts";
import {
  type Claim,
  parsePayload,
  type Signature,
  SignatureError,
  type SigstoreSignature,
} from "./signature.ts";
import { readPublicKey, verifySigstore } from "./sigstore-key.ts";

type SignedBy = Extract<Requirement, { type: "signedBy" }>;
type SigstoreSigned = Extract<Requirement, { type: "sigstoreSigned" }>;

/** What a signature claims; throws a `SignatureError` when it is not genuine. */
export type Verifier = (signature: Signature) => Promise<Claim> | Claim;

/** @throws CribError FailedPrecondition: a key or certificate cannot be read. */
export async function verifier(requirement: SignedBy | SigstoreSigned): Promise<Verifier> {
  if (requirement.type === "signedBy") return openPgp(requirement);
  const check = await sigstoreCheck(requirement);
  return (signature) => {
    if (signature.kind !== "sigstore") throw new SignatureError("it is no sigstore signature");
    check(signature);
    return parsePayload(Buffer.from(signature.payload, "base64"), "sigstore");
  };
}

function openPgp({ keyPath, keyPaths, keyData }: SignedBy): Verifier {
  const keys = readAll("signedBy", [keyPath, ...(keyPaths ?? [])], [keyData]);
  return async (signature) => {
    if (signature.kind !== "simple") throw new SignatureError("it is no OpenPGP signature");
    const result = await verifyOpenPgp(Buffer.from(signature.message, "base64"), keys);
    if ("why" in result) throw new SignatureError(result.why);
    return parsePayload(result.payload, "simple");
  };
}

async function sigstoreCheck(
  requirement: SigstoreSigned,
): Promise<(signature: SigstoreSignature) => void> {
  const logKeys = readLogKeys(requirement);
  const certificates = readCertificates(requirement, logKeys);
  if (certificates !== undefined) {
    const { verifyKeyless } = await import("./keyless.ts");
    return (signature) => verifyKeyless(signature, certificates);
  }
  const { keyPath, keyPaths, keyData, keyDatas } = requirement;
  const keys = readAll(
    "sigstoreSigned",
    [keyPath, ...(keyPaths ?? [])],
    [keyData, ...(keyDatas ?? [])],
  ).map((pem) => readPublicKey(pem, "sigstoreSigned"));
  const { derOfKey, integratedTime } = await import("./rekor.ts");
  return (signature) => {
    const payload = Buffer.from(signature.payload, "base64");
    const bytes = Buffer.from(signature.signature, "base64");
    const key = keys.find((one) => verifySigstore(one, payload, bytes));
    if (key === undefined) throw new SignatureError("made by another key, or changed");
    if (logKeys.length > 0) integratedTime(signature, derOfKey(key), logKeys);
  };
}

function readLogKeys(requirement: SigstoreSigned): KeyObject[] {
  const { rekorPublicKeyPath: path, rekorPublicKeyPaths: paths = [] } = requirement;
  const { rekorPublicKeyData: data, rekorPublicKeyDatas: datas = [] } = requirement;
  return readAll("rekorPublicKey", [path, ...paths], [data, ...datas]).map((pem) => {
    const key = readPublicKey(pem, "policy: rekorPublicKey");
    if (key.asymmetricKeyType === "ec") return key;
    throw new CribError("FailedPrecondition", "policy: rekorPublicKey: it is no ECDSA key");
  });
}

function readCertificates(
  { fulcio, pki }: SigstoreSigned,
  logKeys: readonly KeyObject[],
): FulcioTrust | PkiTrust | undefined {
  const read = (what: string, path: string | undefined, data: string | undefined) =>
    readAll(what, [path], [data]).join("\n");
  if (fulcio !== undefined) {
    const { caPath, caData, oidcIssuer, subjectEmail } = fulcio;
    const ca = requirePem("fulcio", read("fulcio", caPath, caData));
    return { kind: "fulcio", ca, oidcIssuer, subjectEmail, logKeys };
  }
  if (pki === undefined) return undefined;
  const { subjectEmail, subjectHostname } = pki;
  const roots = requirePem("pki", read("pki", pki.caRootsPath, pki.caRootsData));
  const intermediates = read("pki", pki.caIntermediatesPath, pki.caIntermediatesData);
  return { kind: "pki", roots, intermediates, subjectEmail, subjectHostname };
}

function requirePem(what: string, text: string): string {
  if (text.includes("-----BEGIN CERTIFICATE-----")) return text;
  throw new CribError("FailedPrecondition", `policy: ${what}: there is no certificate in its CA`);
}

/** The bytes of files, and of what the policy itself holds in base64. */
function readAll(
  what: string,
  paths: ReadonlyArray<string | undefined>,
  datas: ReadonlyArray<string | undefined>,
): Buffer[] {
  const files = paths.flatMap((path) => {
    if (path === undefined) return [];
    try {
      return [readRegularFile(path)];
    } catch (error) {
      const why = `policy: ${what}: ${path}: ${messageOf(error)}`;
      throw new CribError("FailedPrecondition", why);
    }
  });
  return [
    ...files,
    ...datas.flatMap((data) => (data === undefined ? [] : [Buffer.from(data, "base64")])),
  ];
}
