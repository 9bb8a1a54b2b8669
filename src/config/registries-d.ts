/** registries.d: where signatures are kept (containers-registries.d(5)). */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { CribError, messageOf } from "../error.ts";
import { readRegularFile } from "../linux/regular-file.ts";
import { ifThere } from "./if-there.ts";

const url = v.pipe(
  v.string(),
  v.check((value) => /^(?:file:\/\/\/|https?:\/\/)/.test(value), "must be a file or http(s) URL"),
);
/** The peers leave out what they do not know; but a misspelled "lookaside" would be no signatures at all. */
const sectionSchema = v.strictObject({
  lookaside: v.optional(url),
  "lookaside-staging": v.optional(v.string()),
  // The names until 2022.
  sigstore: v.optional(url),
  "sigstore-staging": v.optional(v.string()),
  "use-sigstore-attachments": v.optional(v.boolean()),
});
const fileSchema = v.nullable(
  v.strictObject({
    "default-docker": v.optional(v.nullable(sectionSchema)),
    docker: v.optional(v.nullable(v.record(v.string(), v.nullable(sectionSchema)))),
  }),
);

/** Where the signatures of an image are. */
export interface SignatureStorage {
  /** Base URL of "simple signing" signatures; "" is none. */
  lookaside: string;
  /** Cosign's signatures are in the image's own repository. */
  sigstoreAttachments: boolean;
}

/** What the tools do where no file says anything. */
const BUILT_IN: SignatureStorage = {
  lookaside: "file:///var/lib/containers/sigstore",
  sigstoreAttachments: false,
};

/**
 * What the files of the directory say about "host[:port]/repository" with ":tag" or "@digest": the
 * section of the most specific scope alone.
 *
 * @throws CribError FailedPrecondition naming the file: not understood, or a scope that another has.
 */
export function signatureStorageOf(
  directory: string,
  name: string,
  suffix: string,
): SignatureStorage {
  const { sections, fallback } = readAll(directory);
  const parts = name.split("/");
  const parents = parts.map((_, index) => parts.slice(0, parts.length - index).join("/"));
  for (const scope of [name + suffix, ...parents]) {
    const section = sections.get(scope);
    if (section !== undefined) return section;
  }
  return fallback ?? BUILT_IN;
}

function readAll(directory: string) {
  const sections = new Map<string, SignatureStorage>();
  let fallback: SignatureStorage | undefined;
  const names = (ifThere(() => readdirSync(directory)) ?? []).filter((n) => n.endsWith(".yaml"));
  for (const name of names.sort()) {
    const path = join(directory, name);
    const wrong = (why: string) => new CribError("FailedPrecondition", `${path}: ${why}`);
    const file = parseFile(readRegularFile(path).toString(), wrong);
    if (file?.["default-docker"]) {
      if (fallback !== undefined) throw wrong("default-docker is there twice");
      fallback = toStorage(file["default-docker"]);
    }
    for (const [scope, section] of Object.entries(file?.docker ?? {})) {
      if (sections.has(scope)) throw wrong(`docker.${scope} is there twice`);
      sections.set(scope, toStorage(section ?? {}));
    }
  }
  return { sections, fallback };
}

function parseFile(text: string, wrong: (why: string) => CribError) {
  let yaml: unknown;
  try {
    yaml = Bun.YAML.parse(text);
  } catch (error) {
    throw wrong(messageOf(error));
  }
  const result = v.safeParse(fileSchema, yaml ?? null);
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw wrong(`${v.getDotPath(issue) ?? "file"}: ${issue.message}`);
}

function toStorage(section: v.InferOutput<typeof sectionSchema>): SignatureStorage {
  return {
    lookaside: section.lookaside ?? section.sigstore ?? "",
    sigstoreAttachments: section["use-sigstore-attachments"] ?? false,
  };
}
