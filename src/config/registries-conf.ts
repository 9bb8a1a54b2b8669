/**
 * registries.conf, version 2, with its drop-ins: where an image is fetched from
 * (containers-registries.conf(5)). The file belongs to all containers tools of the host, so keys that
 * Crib does not use are left alone.
 */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { parse } from "smol-toml";
import * as v from "valibot";
import { CribError, messageOf } from "../error.ts";
import { readRegularFile } from "../linux/regular-file.ts";
import { ifThere } from "./if-there.ts";

const mirrorSchema = v.object({
  location: v.pipe(v.string(), v.nonEmpty()),
  insecure: v.optional(v.boolean(), false),
  "pull-from-mirror": v.optional(v.picklist(["", "all", "digest-only", "tag-only"]), ""),
});
const registrySchema = v.object({
  prefix: v.optional(v.string()),
  location: v.optional(v.string()),
  insecure: v.optional(v.boolean(), false),
  blocked: v.optional(v.boolean(), false),
  "mirror-by-digest-only": v.optional(v.boolean(), false),
  mirror: v.optional(v.array(mirrorSchema), []),
});
const fileSchema = v.object({
  registry: v.optional(v.array(registrySchema), []),
  "unqualified-search-registries": v.optional(v.array(v.pipe(v.string(), v.nonEmpty()))),
  "short-name-mode": v.optional(v.picklist(["", "enforcing", "permissive", "disabled"]), ""),
  "credential-helpers": v.optional(v.array(v.pipe(v.string(), v.nonEmpty()))),
  aliases: v.optional(v.record(v.string(), v.string()), {}),
});

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

/** What all files say together. */
export interface Registries {
  rules: RegistryRule[];
  /** "name" or "namespace/name" to "host/namespace/name". */
  aliases: ReadonlyMap<string, string>;
  /** unqualified-search-registries. */
  search: string[];
  shortNameMode: "enforcing" | "permissive" | "disabled";
  /** "containers-auth.json" stands for the files of containers-auth.json(5). */
  credentialHelpers: string[];
}

/** What one file says; what it does not mention is undefined. */
interface RegistriesFile {
  rules: RegistryRule[];
  aliases: Record<string, string>;
  search?: string[];
  shortNameMode?: Registries["shortNameMode"];
  credentialHelpers?: string[];
}

/** Where podman and its like keep the choices that people made at a terminal. */
const SHORT_NAME_CACHE = "/var/cache/containers/short-name-aliases.conf";

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
 * Reads registries.conf and its drop-ins (`*.conf`, in the order of their names): a table replaces an
 * earlier one of the same prefix, an alias one of the same name ("" erases it), any other key what
 * was there. Files that are not there are no error.
 *
 * @throws CribError FailedPrecondition naming the file and what is wrong with it.
 */
export function readRegistries(paths: {
  file: string;
  directory: string;
  shortNameCache?: string;
}): Registries {
  const rules = new Map<string, RegistryRule>();
  const aliases = new Map<string, string>();
  const all: Registries = {
    rules: [],
    aliases,
    search: [],
    shortNameMode: "permissive",
    credentialHelpers: ["containers-auth.json"],
  };
  const dropIns = (ifThere(() => readdirSync(paths.directory)) ?? [])
    .filter((name) => name.endsWith(".conf"))
    .sort()
    .map((name) => join(paths.directory, name));
  const files = [paths.file, ...dropIns, paths.shortNameCache ?? SHORT_NAME_CACHE];
  for (const file of files) {
    const text = ifThere(() => readRegularFile(file).toString());
    if (text === undefined) continue;
    const one = parseRegistries(text, file);
    for (const rule of one.rules) rules.set(rule.prefix, rule);
    for (const [name, value] of Object.entries(one.aliases)) {
      if (value === "") aliases.delete(name);
      else aliases.set(name, value);
    }
    all.search = one.search ?? all.search;
    all.shortNameMode = one.shortNameMode ?? all.shortNameMode;
    all.credentialHelpers = one.credentialHelpers ?? all.credentialHelpers;
  }
  return { ...all, rules: [...rules.values()] };
}

/** What one file's text says; `file` is for messages. */
export function parseRegistries(text: string, file: string): RegistriesFile {
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
  const { output } = result;
  for (const [name, value] of Object.entries(output.aliases)) checkAlias(name, value, wrong);
  return {
    rules: output.registry.map((table) => toRule(table, wrong)),
    aliases: output.aliases,
    search: output["unqualified-search-registries"]?.map(trim),
    shortNameMode: output["short-name-mode"] || undefined,
    credentialHelpers: output["credential-helpers"],
  };
}

type Wrong = (why: string) => CribError;

function toRule(table: v.InferOutput<typeof registrySchema>, wrong: Wrong): RegistryRule {
  const prefix = trim(table.prefix ?? table.location ?? "");
  const location = trim(table.location ?? (isWildcard(prefix) ? "" : prefix));
  if (prefix === "") throw wrong("a [[registry]] has neither prefix nor location");
  if (isWildcard(prefix) ? /[/:@*]/.test(prefix.slice(1)) : prefix.includes("*")) {
    throw wrong(`prefix ${JSON.stringify(prefix)}: "*." can only begin a host`);
  }
  const digestOnly = table["mirror-by-digest-only"];
  if (digestOnly && table.mirror.some((mirror) => mirror["pull-from-mirror"] !== "")) {
    throw wrong(
      `${prefix}: mirror-by-digest-only and a mirror's pull-from-mirror exclude each other`,
    );
  }
  return {
    prefix,
    location,
    insecure: table.insecure,
    blocked: table.blocked,
    mirrorByDigestOnly: digestOnly,
    mirrors: table.mirror.map((mirror) => ({ ...mirror, location: trim(mirror.location) })),
  };
}

function checkAlias(name: string, value: string, wrong: Wrong): void {
  const last = (text: string) => text.slice(text.lastIndexOf("/") + 1);
  if (!isShortName(name) || /[:@]/.test(name)) {
    throw wrong(`aliases: ${JSON.stringify(name)} is no short name without tag and digest`);
  }
  if (value !== "" && (isShortName(value) || /[:@]/.test(last(value)))) {
    throw wrong(`aliases: ${JSON.stringify(value)} is no full name without tag and digest`);
  }
}

/** Whether an image's name says no registry: "busybox", "team/app". */
export function isShortName(name: string): boolean {
  const slash = name.indexOf("/");
  const first = name.slice(0, Math.max(0, slash));
  return (
    slash < 0 || !(/[.:[]/.test(first) || first === "localhost" || first !== first.toLowerCase())
  );
}

/**
 * The full names that a short one (without tag and digest) stands for, to be tried in this order; none
 * where registries.conf says nothing about it, and Docker's rule counts.
 *
 * @throws CribError InvalidArgument: in mode "enforcing" somebody at a terminal would have to choose.
 */
export function resolveShortName(registries: Registries, name: string): string[] {
  const alias = registries.aliases.get(name);
  if (alias !== undefined) return [alias];
  const { search, shortNameMode } = registries;
  if (shortNameMode === "enforcing" && search.length > 1) {
    throw new CribError(
      "InvalidArgument",
      `image reference ${JSON.stringify(name)}: a short name that may mean ${search.join(", ")} ` +
        `(unqualified-search-registries, short-name-mode = "enforcing"): name the registry`,
    );
  }
  return search.map((registry) => `${registry}/${name}`);
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
  // A prefix may also cover the tag or the digest.
  const rewrite = (location: string) => (location === "" ? name : location + name.slice(matched));
  return [
    ...rule.mirrors
      .filter((mirror) => mirrorServes(mirror, rule, image.digest !== undefined))
      .map((mirror) => splitLocation(rewrite(mirror.location), mirror.insecure, true)),
    splitLocation(rewrite(rule.location), rule.insecure, false),
  ];
}

function mirrorServes(mirror: Mirror, rule: RegistryRule, byDigest: boolean): boolean {
  const mode = mirror["pull-from-mirror"] || (rule.mirrorByDigestOnly ? "digest-only" : "all");
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
    // A port is no part of what the prefix covers, as in the other tools: it stays after a rewrite.
    const host = text.slice(0, text.indexOf("/")).replace(/:\d+$/, "");
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
