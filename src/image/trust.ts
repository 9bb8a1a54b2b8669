/** The decision of policy.json about an image (containers-policy.json(5)). */
import { realpathSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";
import {
  type Policy,
  policyPath,
  type Requirement,
  readPolicy,
  requirementsFor,
  requirementsForArchive,
} from "../config/policy.ts";
import { CribError } from "../error.ts";
import type { ImageSource } from "./image-store.ts";
import { formatReference, nameOf, type Reference } from "./reference.ts";
import { type Claim, type Signature, SignatureError } from "./signature.ts";
import { type Verifier, verifier } from "./signature-verifier.ts";
import { identityMatches } from "./signed-identity.ts";

/** What is known about an image besides its name. */
export interface Evidence {
  /** Of its manifest, and of the indexes that led to it: a signature of any of them counts. */
  digests: readonly string[];
  signatures: readonly Signature[];
}

export interface PolicyPaths {
  file: string;
  /** Holds NAMESPACE.json. */
  directory: string;
}

/** As crib.toml names them. */
export function policyPaths(config: { policy: string; policy_dir: string }): PolicyPaths {
  return { file: config.policy, directory: config.policy_dir };
}

/** The requirements that hold for an image in a namespace. Throws as `readPolicy`. */
export function requirementsOf(
  paths: PolicyPaths,
  namespace: string,
  reference: Reference,
): Requirement[] {
  const policy: Policy = readPolicy(policyPath(paths, namespace));
  const name = nameOf(reference);
  return requirementsFor(policy, name, formatReference(reference).slice(name.length));
}

/** Whether one of the archives that an image came from may be used whatever is in it. */
export function acceptsArchive(policy: Policy, sources: readonly ImageSource[]): boolean {
  return sources.some(({ name, transport }) => {
    if (transport === undefined) return false;
    // Where it was; it need not be there any more.
    const path = name.slice("archive:".length);
    const requirements = requirementsForArchive(policy, transport, realPath(path));
    return requirements.every(({ type }) => type === "insecureAcceptAnything");
  });
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

/** Whether any of the requirements looks at signatures. */
export function wantSignatures(requirements: readonly Requirement[]): boolean {
  return requirements.some(({ type }) => type === "signedBy" || type === "sigstoreSigned");
}

/** Refuses what the policy rejects whatever its signatures are. */
export function refuseRejected(requirements: readonly Requirement[], reference: Reference): void {
  if (requirements.some(({ type }) => type === "reject"))
    throw refusal(reference, "it is rejected");
}

/**
 * Returns when the image meets all requirements.
 *
 * @throws CribError PermissionDenied: it does not; the message begins with "SignatureValidationFailed",
 *   which the kubelet knows. FailedPrecondition: a key cannot be read.
 */
export async function requireTrust(
  requirements: readonly Requirement[],
  reference: Reference,
  evidence: Evidence,
): Promise<void> {
  for (const requirement of requirements) {
    const why = await whyNot(requirement, reference, evidence);
    if (why !== undefined) throw refusal(reference, why);
  }
}

function refusal(reference: Reference, why: string): CribError {
  return new CribError(
    "PermissionDenied",
    `SignatureValidationFailed: ${formatReference(reference)}: refused by the policy: ${why}`,
  );
}

async function whyNot(
  requirement: Requirement,
  reference: Reference,
  { digests, signatures }: Evidence,
): Promise<string | undefined> {
  if (requirement.type === "insecureAcceptAnything") return undefined;
  if (requirement.type === "reject") return "it is rejected";
  const kind = requirement.type === "signedBy" ? "simple" : "sigstore";
  const reasons: string[] = [];
  const claimOf = await verifier(requirement);
  for (const signature of signatures) {
    if (signature.kind !== kind) continue;
    // A registry may have put 128 of them there, each with a chain of certificates: others get their turn.
    await nextTurn();
    const claim = await verified(signature, claimOf);
    if (typeof claim === "string") reasons.push(claim);
    else if (!digests.includes(claim.digest)) reasons.push(`it is for ${claim.digest}`);
    else if (!identityMatches(requirement.signedIdentity, reference, claim.reference)) {
      reasons.push(`it is for ${JSON.stringify(claim.reference.slice(0, 300))}`);
    } else return undefined;
  }
  if (reasons.length === 0) return `${requirement.type}: it has no signature`;
  const list = reasons.map((reason) => reason.replace(/[^\x20-\x7e]/g, "?")).join("; ");
  return `${requirement.type}: no signature is accepted: ${list.slice(0, 1000)}`;
}

/** What the signature claims when it is genuine, else why it does not count. */
async function verified(signature: Signature, claimOf: Verifier): Promise<Claim | string> {
  try {
    return await claimOf(signature);
  } catch (error) {
    if (error instanceof SignatureError) return error.message;
    throw error;
  }
}
