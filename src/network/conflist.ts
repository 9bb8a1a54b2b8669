/**
 * CNI network configuration: parsing and validation, without any file access.
 *
 * Source: CNI specification 1.1.0, section 1 and "Version considerations".
 */
import * as v from "valibot";

/** The CNI versions that Crib speaks, oldest first. Older ones have another form of result. */
const CNI_VERSIONS = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] as const;

/** One plugin of a network, with all the keys that only the plugin knows. */
const pluginSchema = v.looseObject({
  type: v.pipe(v.string(), v.regex(/^(?!\.{1,2}$)[^/\\\0]+$/, "must be the file name of a plugin")),
  capabilities: v.optional(v.record(v.string(), v.boolean())),
  ipam: v.optional(v.looseObject({ type: v.optional(v.string()) })),
});

const flag = v.optional(
  v.pipe(
    v.union([v.boolean(), v.picklist(["true", "false"])]),
    v.transform((value) => value === true || value === "true"),
  ),
  false,
);

const nameSchema = v.pipe(
  v.string(),
  v.regex(/^[A-Za-z0-9][A-Za-z0-9_.-]*$/, "must be letters, digits, _ . and -"),
);

const listSchema = v.looseObject({
  name: nameSchema,
  cniVersion: v.optional(v.string()),
  cniVersions: v.optional(v.array(v.string())),
  disableGC: flag,
  loadOnlyInlinedPlugins: flag,
  plugins: v.optional(v.array(pluginSchema)),
});

/** A network as Crib runs it: also the form that is kept in an attachment's record. */
export const networkSchema = v.object({
  name: nameSchema,
  cniVersion: v.string(),
  disableGC: v.boolean(),
  plugins: v.pipe(v.array(pluginSchema), v.minLength(1)),
});

export type PluginConfig = v.InferOutput<typeof pluginSchema>;
export type CniNetwork = v.InferOutput<typeof networkSchema>;

/** A parsed configuration file, before the version is chosen. */
export interface ConfList {
  name: string;
  /** The versions that it allows and Crib speaks, newest first; never empty. */
  versions: string[];
  disableGC: boolean;
  /** Plugins in a directory named like the network are added unless this is set. */
  loadOnlyInlinedPlugins: boolean;
  plugins: PluginConfig[];
}

/**
 * Parses the text of a `.conflist`, or of a `.conf` with a single plugin, which becomes a list of one.
 *
 * @throws Error whose message says what is wrong; the caller adds the file's name.
 */
export function parseConfList(text: string): ConfList {
  const json = parseJson(text);
  const single = typeof json === "object" && json !== null && "type" in json;
  const list = validate(listSchema, single && !("plugins" in json) ? wrap(json) : json);
  return {
    name: list.name,
    versions: allowedVersions(list.cniVersion, list.cniVersions),
    disableGC: list.disableGC,
    loadOnlyInlinedPlugins: list.loadOnlyInlinedPlugins,
    plugins: list.plugins ?? [],
  };
}

/** Parses a plugin's own file from the directory named like the network. */
export function parsePluginConf(text: string): PluginConfig {
  return validate(pluginSchema, parseJson(text));
}

/** The version of the attachment protocol, as a number to compare: 1.1.0 is 1001000. */
function versionNumber(version: string): number {
  const [major = 0, minor = 0, patch = 0] = version.split(".").map(Number);
  return major * 1_000_000 + minor * 1000 + patch;
}

/** Whether `version` is `other` or newer. */
export function atLeast(version: string, other: string): boolean {
  return versionNumber(version) >= versionNumber(other);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`is not JSON: ${error instanceof Error ? error.message : error}`);
  }
}

function wrap(plugin: object): unknown {
  const { name, cniVersion } = plugin as { name?: unknown; cniVersion?: unknown };
  return { name, cniVersion, loadOnlyInlinedPlugins: true, plugins: [plugin] };
}

function allowedVersions(one: string | undefined, more: string[] | undefined): string[] {
  const asked = [...(one === undefined ? [] : [one]), ...(more ?? [])];
  if (asked.length === 0) throw new Error("cniVersion: is missing");
  const known = CNI_VERSIONS.filter((version) => asked.includes(version));
  if (known.length === 0) {
    throw new Error(`cniVersion: ${asked.join(", ")} is none of ${CNI_VERSIONS.join(", ")}`);
  }
  return known.toReversed();
}

/** Validates with a message such as `plugins.0.type: must be the file name of a plugin`. */
export function validate<const Schema extends v.GenericSchema>(
  schema: Schema,
  value: unknown,
): v.InferOutput<Schema> {
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  const [issue] = result.issues;
  const path = v.getDotPath(issue) ?? "";
  const problem = issue.received === "undefined" ? "is missing" : issue.message;
  throw new Error(path === "" ? problem : `${path}: ${problem}`);
}
