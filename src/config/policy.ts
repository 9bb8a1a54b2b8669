/**
 * policy.json: which images may be used (containers-policy.json(5)). Read strictly: a file with
 * anything in it that is not understood is refused as a whole.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { CribError, messageOf } from "../error.ts";
import { readRegularFile } from "../linux/regular-file.ts";
import { ifThere } from "./if-there.ts";
import { parseStrictJson } from "./strict-json.ts";

const text = v.pipe(v.string(), v.nonEmpty());
const identitySchema = v.variant("type", [
  v.strictObject({ type: v.literal("matchExact") }),
  v.strictObject({ type: v.literal("matchRepoDigestOrExact") }),
  v.strictObject({ type: v.literal("matchRepository") }),
  v.strictObject({ type: v.literal("exactReference"), dockerReference: text }),
  v.strictObject({ type: v.literal("exactRepository"), dockerRepository: text }),
  v.strictObject({ type: v.literal("remapIdentity"), prefix: text, signedPrefix: text }),
]);
const identity = v.optional(identitySchema, { type: "matchRepoDigestOrExact" });
const base64 = v.pipe(text, v.base64());
const paths = v.pipe(v.array(text), v.minLength(1));
/** How many of the members there are. */
const given = (object: object, names: readonly string[]) =>
  names.filter((name) => (object as Record<string, unknown>)[name] !== undefined).length;
const KEYS = ["keyPath", "keyPaths", "keyData", "keyDatas"];
const ONE_KEY = "needs exactly one of keyPath, keyPaths, keyData, keyDatas";

const signedBySchema = v.pipe(
  v.strictObject({
    type: v.literal("signedBy"),
    keyType: v.literal("GPGKeys"),
    keyPath: v.optional(text),
    keyPaths: v.optional(paths),
    keyData: v.optional(base64),
    signedIdentity: identity,
  }),
  v.check((requirement) => given(requirement, KEYS) === 1, ONE_KEY),
);

/** Certificates of Fulcio: short-lived, for a person whom an OpenID provider knows. */
const fulcioSchema = v.pipe(
  v.strictObject({
    caPath: v.optional(text),
    caData: v.optional(base64),
    oidcIssuer: text,
    subjectEmail: text,
  }),
  v.check((ca) => given(ca, ["caPath", "caData"]) === 1, "needs exactly one of caPath, caData"),
);
/** Certificates of an own CA, which are valid when they are looked at. */
const pkiSchema = v.pipe(
  v.strictObject({
    caRootsPath: v.optional(text),
    caRootsData: v.optional(base64),
    caIntermediatesPath: v.optional(text),
    caIntermediatesData: v.optional(base64),
    subjectEmail: v.optional(text),
    subjectHostname: v.optional(
      v.pipe(text, v.regex(/^(?=.*[A-Za-z])[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/, "is no host name")),
    ),
  }),
  v.check(
    (pki) => given(pki, ["caRootsPath", "caRootsData"]) === 1,
    "needs exactly one of caRootsPath, caRootsData",
  ),
  v.check(
    (pki) => given(pki, ["caIntermediatesPath", "caIntermediatesData"]) <= 1,
    "has both of caIntermediatesPath, caIntermediatesData",
  ),
  v.check(
    (pki) => given(pki, ["subjectEmail", "subjectHostname"]) > 0,
    "needs subjectEmail or subjectHostname",
  ),
);
const REKOR_KEYS = [
  "rekorPublicKeyPath",
  "rekorPublicKeyPaths",
  "rekorPublicKeyData",
  "rekorPublicKeyDatas",
];
const sigstoreSignedSchema = v.pipe(
  v.strictObject({
    type: v.literal("sigstoreSigned"),
    keyPath: v.optional(text),
    keyPaths: v.optional(paths),
    keyData: v.optional(base64),
    keyDatas: v.optional(v.pipe(v.array(base64), v.minLength(1))),
    fulcio: v.optional(fulcioSchema),
    pki: v.optional(pkiSchema),
    rekorPublicKeyPath: v.optional(text),
    rekorPublicKeyPaths: v.optional(paths),
    rekorPublicKeyData: v.optional(base64),
    rekorPublicKeyDatas: v.optional(v.pipe(v.array(base64), v.minLength(1))),
    signedIdentity: identity,
  }),
  v.check(
    (requirement) => given(requirement, [...KEYS, "fulcio", "pki"]) === 1,
    `${ONE_KEY}, fulcio, pki`,
  ),
  v.check(
    (requirement) => given(requirement, REKOR_KEYS) <= 1,
    `has more than one of ${REKOR_KEYS.join(", ")}`,
  ),
  v.check(
    (requirement) => requirement.fulcio === undefined || given(requirement, REKOR_KEYS) === 1,
    "fulcio needs a rekorPublicKey: only the log says when its certificate was used",
  ),
  v.check(
    (requirement) => requirement.pki === undefined || given(requirement, REKOR_KEYS) === 0,
    "pki and rekorPublicKey do not go together",
  ),
);
const requirementSchema = v.union([
  v.strictObject({ type: v.literal("insecureAcceptAnything") }),
  v.strictObject({ type: v.literal("reject") }),
  signedBySchema,
  sigstoreSignedSchema,
]);
const requirementsSchema = v.pipe(v.array(requirementSchema), v.minLength(1));
const policySchema = v.strictObject({
  default: requirementsSchema,
  transports: v.optional(v.record(v.string(), v.record(v.string(), requirementsSchema)), {}),
});

export type SignedIdentity = v.InferOutput<typeof identitySchema>;
export type Requirement = v.InferOutput<typeof requirementSchema>;
export type Fulcio = v.InferOutput<typeof fulcioSchema>;
export type Pki = v.InferOutput<typeof pkiSchema>;
export type Policy = v.InferOutput<typeof policySchema>;

/** Where the containers tools look; only there may it be absent. */
const DEFAULT_PATH = "/etc/containers/policy.json";
const ACCEPT_ALL: Policy = { default: [{ type: "insecureAcceptAnything" }], transports: {} };

/** The policy file that holds for a namespace: its own, where it has one. */
export function policyPath(paths: { file: string; directory: string }, namespace: string): string {
  const own = join(paths.directory, `${namespace}.json`);
  return /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/.test(namespace) && existsSync(own) ? own : paths.file;
}

/**
 * Reads a policy file. A node that has none at the usual place accepts all images.
 *
 * @throws CribError FailedPrecondition naming the file and what is wrong; Unimplemented: it asks for
 *   checks that Crib does not have (signedBaseLayer).
 */
export function readPolicy(path: string): Policy {
  const bytes = ifThere(() => readRegularFile(path).toString());
  if (bytes !== undefined) return parsePolicy(bytes, path);
  if (path === DEFAULT_PATH) return ACCEPT_ALL;
  throw new CribError("FailedPrecondition", `${path} (image.policy) is not there`);
}

/** Reads the text of a policy; `path` is for messages. */
export function parsePolicy(bytes: string, path: string): Policy {
  let json: unknown;
  try {
    json = parseStrictJson(bytes);
  } catch (error) {
    throw new CribError("FailedPrecondition", `${path}: ${messageOf(error)}`);
  }
  refuseUnsupported(json, path);
  const result = v.safeParse(policySchema, json);
  if (result.success) return result.output;
  const [issue] = result.issues;
  const where = v.getDotPath(issue) ?? "policy";
  throw new CribError("FailedPrecondition", `${path}: ${where}: ${describe(issue)}`);
}

/** The issue of the requirement that was meant, not that none of all kinds fits. */
function describe(issue: v.BaseIssue<unknown>): string {
  const { type } = (issue.input ?? {}) as { type?: unknown };
  if (issue.type !== "union") return issue.message;
  const schema = { signedBy: signedBySchema, sigstoreSigned: sigstoreSignedSchema }[String(type)];
  const meant = schema && v.safeParse(schema, issue.input).issues?.[0];
  if (meant === undefined) return `requirement ${JSON.stringify(issue.input)} is not known`;
  return `${v.getDotPath(meant) ?? String(type)}: ${meant.message}`;
}

function refuseUnsupported(json: unknown, path: string): void {
  if (typeof json !== "object" || json === null) return;
  if ((json as { type?: unknown }).type === "signedBaseLayer") {
    throw new CribError("Unimplemented", `${path}: signedBaseLayer is not supported`);
  }
  for (const value of Object.values(json)) refuseUnsupported(value, path);
}

/**
 * The requirements for an image of a registry: those of the most specific scope. `name` is
 * "host[:port]/repository", `suffix` ":tag" or "@digest".
 */
export function requirementsFor(policy: Policy, name: string, suffix: string): Requirement[] {
  const scopes = policy.transports.docker ?? {};
  for (const scope of [name + suffix, ...parentScopes(name), ""]) {
    const found = Object.hasOwn(scopes, scope) ? scopes[scope] : undefined;
    if (found !== undefined) return found;
  }
  return policy.default;
}

/** As containers-policy.json(5) names what an archive is: an OCI layout, one in a tar, or `docker save`'s. */
export const ARCHIVE_TRANSPORTS = ["oci", "oci-archive", "docker-archive"] as const;
export type ArchiveTransport = (typeof ARCHIVE_TRANSPORTS)[number];

/**
 * The requirements for what comes in an archive or directory: those of its path without links, of the
 * nearest directory above it, or of the transport.
 *
 * @throws CribError FailedPrecondition: scopes that the transport does not have.
 */
export function requirementsForArchive(
  policy: Policy,
  transport: ArchiveTransport,
  path: string,
): Requirement[] {
  const scopes = policy.transports[transport] ?? {};
  if (transport === "docker-archive") {
    const other = Object.keys(scopes).find((scope) => scope !== "");
    if (other !== undefined) {
      const why = `transports.docker-archive has no scopes, but ${JSON.stringify(other)}`;
      throw new CribError("FailedPrecondition", `policy.json: ${why}`);
    }
    return scopes[""] ?? policy.default;
  }
  const parts = path.split("/");
  // Not "/": that is what "" is for.
  const places = parts.slice(1).map((_, index) => parts.slice(0, parts.length - index).join("/"));
  for (const scope of [...places, ""]) {
    const found = Object.hasOwn(scopes, scope) ? scopes[scope] : undefined;
    if (found !== undefined) return found;
  }
  return policy.default;
}

/** "h.a.io:5000/b/c" → itself, "h.a.io:5000/b", "h.a.io:5000", "*.a.io", "*.io". */
function parentScopes(name: string): string[] {
  const parts = name.split("/");
  const scopes = parts.map((_, index) => parts.slice(0, parts.length - index).join("/"));
  const labels = (parts[0] ?? "").replace(/:\d+$/, "").split(".");
  for (let index = 1; index < labels.length; index++) {
    scopes.push(`*.${labels.slice(index).join(".")}`);
  }
  return scopes;
}
