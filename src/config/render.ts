/** Writes a configuration as TOML: the commented default, or the effective values. */
import { stringify } from "smol-toml";
import * as v from "valibot";
import { type Config, configSchema } from "./schema.ts";

/**
 * The default configuration as a file to start from: every key documented and commented out, so that
 * installing it changes nothing and later defaults still apply.
 */
export function renderDefaultConfig(): string {
  const lines = [
    "# Crib's configuration. Every key is shown with its default.",
    "# Files in the directory crib.d beside this one are read after it, in lexical order.",
  ];
  for (const [name, table] of Object.entries(configSchema.entries)) {
    lines.push("", ...comment(v.getDescription(table)), `[${name}]`);
    for (const [key, schema] of Object.entries(table.wrapped.entries)) {
      const documented = schema as v.GenericSchema;
      const value = v.getDefault(documented as Parameters<typeof v.getDefault>[0]);
      lines.push("", ...comment(v.getDescription(documented)), `#${key} = ${inline(value)}`);
    }
  }
  return `${lines.join("\n")}\n`;
}

/** The values as they are in effect, as TOML. */
export function renderConfig(config: Config): string {
  return `${stringify(config).trimEnd()}\n`;
}

function comment(doc: string | undefined): string[] {
  return (doc ?? "").split("\n").map((line) => `# ${line}`);
}

/** A TOML value on one line; JSON is TOML for all but tables, and the only default table is empty. */
function inline(value: unknown): string {
  return JSON.stringify(value).replaceAll(",", ", ");
}
