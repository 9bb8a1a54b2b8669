/** Whether the name that a signature vouches for is the name an image is used under. */
import type { SignedIdentity } from "../config/policy.ts";
import { formatReference, nameOf, parseReference, type Reference } from "./reference.ts";

/**
 * Applies a policy's signedIdentity (containers-policy.json(5)). `signed` is what the signature says,
 * normalised as Docker does; nonsense in it is no match.
 */
export function identityMatches(
  identity: SignedIdentity,
  reference: Reference,
  signed: string,
): boolean {
  const claim = parse(signed);
  if (claim === undefined) return false;
  switch (identity.type) {
    case "matchExact":
      return reference.digest === undefined && exact(claim, reference);
    case "matchRepoDigestOrExact":
      return digestOrExact(claim, reference);
    case "matchRepository":
      return nameOf(claim.reference) === nameOf(reference);
    case "exactReference": {
      const wanted = parse(identity.dockerReference);
      return wanted !== undefined && !wanted.nameOnly && exact(claim, wanted.reference);
    }
    case "exactRepository": {
      const wanted = parse(identity.dockerRepository);
      return wanted !== undefined && nameOf(claim.reference) === nameOf(wanted.reference);
    }
    case "remapIdentity":
      return digestOrExact(claim, remap(reference, identity));
  }
}

interface Claim {
  reference: Reference;
  /** It has neither tag nor digest. */
  nameOnly: boolean;
}

function parse(text: string): Claim | undefined {
  try {
    const nameOnly = !/[:@]/.test(text.slice(text.lastIndexOf("/") + 1));
    return { reference: parseReference(text), nameOnly };
  } catch {
    return undefined;
  }
}

const exact = ({ reference, nameOnly }: Claim, wanted: Reference) =>
  !nameOnly && formatReference(reference) === formatReference(wanted);

function digestOrExact(claim: Claim, wanted: Reference): boolean {
  if (wanted.digest === undefined) return exact(claim, wanted);
  return nameOf(claim.reference) === nameOf(wanted);
}

function remap(
  reference: Reference,
  { prefix, signedPrefix }: { prefix: string; signedPrefix: string },
): Reference {
  const name = nameOf(reference);
  if (name !== prefix && !name.startsWith(`${prefix}/`)) return reference;
  const mapped = parse(signedPrefix + name.slice(prefix.length));
  if (mapped === undefined) return reference;
  const { registry, repository } = mapped.reference;
  return { ...reference, registry, repository };
}
