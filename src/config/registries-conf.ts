/**
 * registries.conf, version 2, with its drop-ins: where an image is fetched from
 * (containers-registries.conf(5)). The file belongs to all containers tools of the host, so keys that
 * Crib does not use are left alone.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "smol-toml";
import * as v from "valibot";
import { CribError, messageOf } from "../error.ts";

const mirrorSchema = v.object({
  location: v.pipe(v.string(), v.nonEmpty()),
  insecure: v.optional(v.boolean(), false),
  "pull-from-mirror": v.optional(v.picklist(["all", "digest-only", "tag-only"])),
});
const registrySchema = v.object({
  prefix: v.optional(v.string()),
  location: v.optional(v.string()),
  insecure: v.optional(v.boolean(), false),
  blocked: v.optional(v.boolean(), false),
  "mirror-by-digest-only": v.optional(v.boolean(), false),
  mirror: v.optional(v.array(mirrorSchema), []),
});
const fileSchema = v.object({ registry: v.optional(v.array(registrySchema), []) });

type Mirror = v.InferOutput<typeof mirrorSchema>;

/** One [[registry]] table: references that begin with `prefix` are fetched as it says. */
export interface RegistryRule {
  prefix: string;
  /** Replaces `prefix`; "" only for a wildcard prefix: nothing is rewritten. */
  location: string;
  insecure: boolean;
  blocked: boolean;
  mirrorByDigestOnly: boolean;
  mirrors: Mirror[];
}

/** A place to fetch an image from. */
export interface Source {
  /** Host and port, as the reference or the configuration writes it ("docker.io" is Docker Hub). */
  host: string;
  repository: string;
  /** Certificates are not checked, and plain http is used where https does not answer. */
  insecure: boolean;
  mirror: boolean;
}

/**
 * Reads registries.conf and its drop-ins (`*.conf`, in the order of their names; a table replaces an
 * earlier one of the same prefix). Files that are not there are no error.
 *
 * @throws CribError FailedPrecondition naming the file and what is wrong with it.
 */
export function readRegistries(paths: { file: string; directory: string }): RegistryRule[] {
  const rules = new Map<string, RegistryRule>();
  const dropIns = (ifThere(() => readdirSync(paths.directory)) ?? [])
    .filter((name) => name.endsWith(".conf"))
    .sort();
  for (const file of [paths.file, ...dropIns.map((name) => join(paths.directory, name))]) {
    const text = ifThere(() => readFileSync(file, "utf8"));
    if (text === undefined) continue;
    for (const rule of parseRegistries(text, file)) rules.set(rule.prefix, rule);
  }
  return [...rules.values()];
}

function ifThere<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw error;
  }
}

/** The rules of one file's text; `file` is for messages. */
export function parseRegistries(text: string, file: string): RegistryRule[] {
  const wrong = (why: string) => new CribError("FailedPrecondition", `${file}: ${why}`);
  let toml: Record<string, unknown>;
  try {
    toml = parse(text);
  } catch (error) {
    throw wrong(messageOf(error));
  }
  if ("registries" in toml)
    throw wrong("version 1 of registries.conf ([registries.…]) is not read");
  const result = v.safeParse(fileSchema, toml);
  if (!result.success) {
    const issue = result.issues[0];
    throw wrong(`${v.getDotPath(issue) ?? "registry"}: ${issue.message}`);
  }
  return result.output.registry.map((table) => {
    const prefix = trim(table.prefix ?? table.location ?? "");
    const location = trim(table.location ?? (isWildcard(prefix) ? "" : prefix));
    if (prefix === "") throw wrong("a [[registry]] has neither prefix nor location");
    return {
      prefix,
      location,
      insecure: table.insecure,
      blocked: table.blocked,
      mirrorByDigestOnly: table["mirror-by-digest-only"],
      mirrors: table.mirror.map((mirror) => ({ ...mirror, location: trim(mirror.location) })),
    };
  });
}

const trim = (text: string) => text.replace(/\/+$/, "");
const isWildcard = (prefix: string) => prefix.startsWith("*.");

/**
 * The places to try for an image, in order: the mirrors, then the location itself.
 *
 * @throws CribError PermissionDenied when registries.conf blocks the image.
 */
export function sourcesOf(
  rules: readonly RegistryRule[],
  image: { registry: string; repository: string; tag?: string; digest?: string },
): Source[] {
  const name = `${image.registry}/${image.repository}`;
  const suffix = image.digest === undefined ? `:${image.tag}` : `@${image.digest}`;
  const match = longestMatch(rules, name + suffix);
  if (match === undefined) return [splitLocation(name, false, false)];
  const { rule, matched } = match;
  if (rule.blocked) {
    throw new CribError(
      "PermissionDenied",
      `${name}${suffix}: registry ${rule.prefix} is blocked in registries.conf`,
    );
  }
  const rewrite = (location: string) =>
    location === "" ? name : location + (name + suffix).slice(matched).replace(suffix, "");
  return [
    ...rule.mirrors
      .filter((mirror) => mirrorServes(mirror, rule, image.digest !== undefined))
      .map((mirror) => splitLocation(rewrite(mirror.location), mirror.insecure, true)),
    splitLocation(rewrite(rule.location), rule.insecure, false),
  ];
}

function mirrorServes(mirror: Mirror, rule: RegistryRule, byDigest: boolean): boolean {
  const mode = mirror["pull-from-mirror"] ?? (rule.mirrorByDigestOnly ? "digest-only" : "all");
  return mode === "all" || (mode === "digest-only") === byDigest;
}

function longestMatch(rules: readonly RegistryRule[], text: string) {
  let best: { rule: RegistryRule; matched: number } | undefined;
  for (const rule of rules) {
    const matched = matchedLength(rule.prefix, text);
    if (matched === 0) continue;
    if (best === undefined || rule.prefix.length > best.rule.prefix.length)
      best = { rule, matched };
  }
  return best;
}

/** How much of `text` the prefix covers, up to a border of name, tag or digest; 0 when it does not. */
function matchedLength(prefix: string, text: string): number {
  let length = prefix.length;
  if (isWildcard(prefix)) {
    const host = text.slice(0, text.indexOf("/"));
    if (!host.endsWith(prefix.slice(1))) return 0;
    length = host.length;
  } else if (!text.startsWith(prefix)) {
    return 0;
  }
  return length === text.length || "/:@".includes(text.charAt(length)) ? length : 0;
}

function splitLocation(location: string, insecure: boolean, mirror: boolean): Source {
  const slash = location.indexOf("/");
  if (slash < 0) {
    throw new CribError("FailedPrecondition", `registries.conf: ${location} names no repository`);
  }
  return {
    host: location.slice(0, slash),
    repository: location.slice(slash + 1),
    insecure,
    mirror,
  };
}
