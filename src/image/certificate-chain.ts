/** Chains of X.509 certificates that sign code (RFC 5280, as far as Fulcio's and alike need it). */
import { X509Certificate } from "@sigstore/core";
import { SignatureError } from "./signature.ts";

const BASIC_CONSTRAINTS = "2.5.29.19";
const KEY_USAGE = "2.5.29.15";
const EXTENDED_KEY_USAGE = "2.5.29.37";
const NAME_CONSTRAINTS = "2.5.29.30";
const SUBJECT_ALT_NAME = "2.5.29.17";
const CODE_SIGNING = "1.3.6.1.5.5.7.3.3";
const ANY_USAGE = "2.5.29.37.0";
const UNDERSTOOD = [BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE, SUBJECT_ALT_NAME];
const DEPTH_LIMIT = 6;
const COUNT_LIMIT = 16;
/** Of the text of one: with RSA keys of 4096 bits they have some 2500 characters. */
const PEM_LIMIT = 12 * 1024;
const PEM = /-----BEGIN CERTIFICATE-----[\sA-Za-z0-9+/=]+-----END CERTIFICATE-----/g;
/** Kinds of GeneralName. */
const EMAIL = 1;
const DNS = 2;

/** Reads the certificates of a PEM text, at most 16, and none that takes long. Throws a `SignatureError`. */
export function readChain(pem: string, what: string): X509Certificate[] {
  const blocks = pem.match(PEM) ?? [];
  if (blocks.length > COUNT_LIMIT) throw new SignatureError(`${what}: too many certificates`);
  if (blocks.some((block) => block.length > PEM_LIMIT)) {
    throw new SignatureError(`${what}: a certificate has more than ${PEM_LIMIT} characters`);
  }
  try {
    return blocks.map((block) => X509Certificate.parse(block));
  } catch (error) {
    throw new SignatureError(`${what}: a certificate is damaged`, { cause: error });
  }
}

/**
 * Returns when the certificate may sign code, by way of the intermediates, as one of the roots says, at
 * that time.
 *
 * @throws SignatureError: why it may not.
 */
export function requireChain(
  leaf: X509Certificate,
  options: { roots: X509Certificate[]; intermediates: X509Certificate[]; at: Date },
): void {
  const { at } = options;
  const reasons = new Set<string>();
  const usable = (certificate: X509Certificate, what: string): boolean => {
    const why = whyNot(certificate, at);
    if (why !== undefined) reasons.add(`${what} ${why}`);
    return why === undefined;
  };
  // Each is tried once: a chain of certificates that all sign each other must not take for ever.
  const untried = new Set(options.intermediates);
  /** `below` counts the certificates between the issuer that is looked for and the leaf. */
  const climb = (certificate: X509Certificate, below: number): boolean => {
    const issues = (issuer: X509Certificate) => mayIssue(issuer, certificate, below);
    if (options.roots.some((root) => issues(root) && usable(root, "its root"))) return true;
    if (below >= DEPTH_LIMIT) return false;
    return [...untried].some((issuer) => {
      if (!untried.has(issuer) || !issues(issuer)) return false;
      untried.delete(issuer);
      return usable(issuer, "an intermediate certificate") && climb(issuer, below + 1);
    });
  };
  if (usable(leaf, "its certificate") && climb(leaf, 0)) return;
  throw new SignatureError([...reasons].join("; ") || "its certificate is by another CA");
}

function mayIssue(issuer: X509Certificate, subject: X509Certificate, below: number): boolean {
  if (!issuer.subject.equals(subject.issuer) || !issuer.isCA) return false;
  const limit = issuer.extBasicConstraints?.pathLenConstraint;
  return (limit === undefined || limit >= below) && verifies(issuer, subject);
}

function verifies(issuer: X509Certificate, subject: X509Certificate): boolean {
  try {
    return subject.verify(issuer);
  } catch {
    return false;
  }
}

function whyNot(certificate: X509Certificate, at: Date): string | undefined {
  if (!certificate.validForDate(at)) return `was not valid on ${at.toISOString()}`;
  for (const { subs } of certificate.extensions) {
    const oid = subs[0]?.toOID() ?? "";
    const critical = subs.length === 3 && subs[1]?.toBoolean() === true;
    if ((critical && !UNDERSTOOD.includes(oid)) || oid === NAME_CONSTRAINTS) {
      return `has the extension ${oid}, which is not supported`;
    }
  }
  const usages = certificate.extension(EXTENDED_KEY_USAGE)?.valueObj.subs[0]?.subs;
  const allowed = usages?.map((usage) => usage.toOID()) ?? [ANY_USAGE];
  const mayCode = allowed.includes(CODE_SIGNING) || allowed.includes(ANY_USAGE);
  return mayCode ? undefined : "is not for signing code";
}

/** The e-mail addresses that a certificate is for. */
export const emailsOf = (certificate: X509Certificate) => namesOf(certificate, EMAIL);

/** Whether it is for the host, also by a name like "*.example.com". */
export function isForHost(certificate: X509Certificate, host: string): boolean {
  const wanted = host.toLowerCase();
  const wide = wanted.replace(/^[^.]+/, "*");
  return namesOf(certificate, DNS).some((name) => [wanted, wide].includes(name.toLowerCase()));
}

function namesOf(certificate: X509Certificate, kind: number): string[] {
  const names = certificate.extension(SUBJECT_ALT_NAME)?.valueObj.subs[0]?.subs ?? [];
  return names
    .filter(({ tag }) => tag.isContextSpecific(kind))
    .map(({ value }) => value.toString("latin1"));
}
