import { type OciNumber, ociNumber } from "./spec/oci.ts";

/** Fields whose keys are the client's own. */
const MAPS = new Set(["labels", "annotations", "sysctls", "unified"]);
/** Where the contract's names are not those that a stub's would give. */
const NAMES: Readonly<Record<string, string>> = {
  CDIDevices: "CDI_devices",
  uidMappings: "uidMappings",
  gidMappings: "gidMappings",
};

export type ConfigJson = { [name: string]: JsonValue };
type JsonValue = string | boolean | OciNumber | ConfigJson | JsonValue[];

/**
 * A request's configuration for `JSON.stringify`, as containerd shows it: the contract's field names, no
 * field that is not set, enums and 64-bit integers as numbers. An environment variable is text.
 */
export function configJson(message: object): ConfigJson {
  const json: ConfigJson = {};
  for (const [key, value] of Object.entries(message) as Array<[string, unknown]>) {
    const shown = MAPS.has(key) ? mapJson(value) : valueJson(value);
    if (shown !== undefined) json[NAMES[key] ?? snakeCase(key)] = shown;
  }
  return json;
}

function snakeCase(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function mapJson(value: unknown): ConfigJson | undefined {
  const entries = Object.entries(value ?? {}).map(([key, text]) => [key, String(text)]);
  return entries.length === 0 ? undefined : Object.fromEntries(entries);
}

/** Undefined for what is as good as not set: protobuf does not tell the two apart. */
function valueJson(value: unknown): JsonValue | undefined {
  if (Array.isArray(value)) {
    return value.length === 0 ? undefined : value.map((item: unknown) => itemJson(item));
  }
  const json = itemJson(value);
  return json === "" || json === 0 || json === false || value === undefined ? undefined : json;
}

function itemJson(value: unknown): JsonValue {
  if (typeof value === "bigint") return ociNumber(value.toString());
  if (value instanceof Uint8Array) return new TextDecoder().decode(value);
  if (typeof value === "object" && value !== null) return configJson(value);
  return typeof value === "boolean" || typeof value === "number" ? value : String(value ?? "");
}
