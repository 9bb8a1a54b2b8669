/**
 * Loads crib.toml: the file, its drop-ins in lexical order, `--set` and flags, each over the one before.
 *
 * Tables merge key by key; any other value, arrays included, replaces the earlier one.
 */
import { readdir, readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { parse, TomlError, type TomlTable } from "smol-toml";
import * as v from "valibot";
import { CribError, messageOf } from "../error.ts";
import { codeOf } from "../linux/errno.ts";
import { describeIssues, isMissingKey, type Source } from "./problem.ts";
import { type Config, configSchema } from "./schema.ts";

export { type Config, defaultConfig } from "./schema.ts";

/** Where `crib` looks when no `--config` is given; it need not exist. */
export const DEFAULT_CONFIG_FILE = "/etc/crib/crib.toml";

export interface LoadOptions {
  /** The main file; `DEFAULT_CONFIG_FILE` when absent. */
  file?: string;
  /** A missing main file is an error: true when the user named it. Default: `file` was given. */
  fileRequired?: boolean;
  /** Drop-ins; by default the file's sibling `NAME.d` for `NAME.toml`, so each daemon has its own. */
  dropInDir?: string;
  /** `section.key=value`, the value as TOML or a bare word. */
  set?: string[];
  /** `--root`, `--state` and `--socket`, which win over everything. */
  flags?: { root?: string; state?: string; socket?: string };
}

type Table = Record<string, unknown>;

/**
 * The effective configuration.
 *
 * @throws CribError InvalidArgument naming the source, the line, the key, the value and the nearest known
 *   key, one line for each problem found in a source; NotFound when the file that was asked for is absent.
 */
export async function loadConfig(options: LoadOptions = {}): Promise<Config> {
  const file = options.file ?? DEFAULT_CONFIG_FILE;
  const required = options.fileRequired ?? options.file !== undefined;
  let merged: Table = {};

  const paths = [file, ...(await dropIns(options.dropInDir ?? dropInDirOf(file)))];
  for (const path of paths) {
    const text = await readText(path, path === file && !required);
    if (text === undefined) continue;
    const source = { name: path, text };
    const table = parseFile(source);
    checkAlone(table, source);
    merged = merge(merged, table);
  }
  for (const assignment of options.set ?? []) {
    merged = merge(merged, parseAssignment(assignment));
  }
  for (const name of ["root", "state", "socket"] as const) {
    const value = options.flags?.[name];
    if (value === undefined) continue;
    const table = { crib: { [name]: value } };
    checkAlone(table, { name: `--${name}` });
    merged = merge(merged, table);
  }
  return validateWhole(merged, file);
}

/** `/etc/crib/crib.toml` → `/etc/crib/crib.d`. */
function dropInDirOf(file: string): string {
  return join(dirname(file), `${basename(file, ".toml")}.d`);
}

async function dropIns(directory: string): Promise<string[]> {
  try {
    const names = await readdir(directory);
    return names
      .filter((name) => name.endsWith(".toml") && !name.startsWith("."))
      .sort()
      .map((name) => join(directory, name));
  } catch (error) {
    const code = codeOf(error);
    if (code === "ENOENT" || code === "ENOTDIR") return [];
    throw new CribError("InvalidArgument", `${directory}: cannot be read: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

async function readText(path: string, optional: boolean): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (codeOf(error) === "ENOENT") {
      if (optional) return undefined;
      throw new CribError("NotFound", `${path}: there is no such configuration file`);
    }
    throw new CribError("InvalidArgument", `${path}: cannot be read: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

function parseFile(source: Required<Source>): TomlTable {
  try {
    return parse(source.text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const place = `${source.name}:${error.line}:${error.column}`;
    throw new CribError("InvalidArgument", `${place}: ${error.message.split("\n")[0]}`, {
      cause: error,
    });
  }
}

/** Finds what is wrong in one source, so that the message can name it. */
function checkAlone(table: Table, source: Source): void {
  const { issues } = v.safeParse(configSchema, table);
  const own = issues?.filter((issue) => !isMissingKey(issue)) ?? [];
  if (own.length === 0) return;
  throw new CribError("InvalidArgument", describeIssues(own, source));
}

function validateWhole(merged: Table, file: string): Config {
  const result = v.safeParse(configSchema, merged);
  if (!result.success) {
    throw new CribError("InvalidArgument", describeIssues(result.issues, { name: file }));
  }
  const config = result.output;
  const { root, state } = config.crib;
  if (root === state) {
    throw new CribError("InvalidArgument", `crib.root and crib.state are both ${root}: need two`);
  }
  checkTls(config.streaming);
  const { default_handler: name, handlers } = config.runtime;
  if (name !== "" && Object.keys(handlers).length > 0 && !Object.hasOwn(handlers, name)) {
    const known = Object.keys(handlers).join(", ");
    const message = `runtime.default_handler: "${name}" is none of runtime.handlers (${known})`;
    throw new CribError("InvalidArgument", message);
  }
  return config;
}

function checkTls(streaming: Config["streaming"]): void {
  const { tls_cert_file: cert, tls_key_file: key, tls_client_ca_file: ca } = streaming;
  if ((cert === "") === (key === "") && (ca === "" || cert !== "")) return;
  const need = "streaming.tls_cert_file and streaming.tls_key_file: need both";
  const message = ca === "" ? need : `${need} for streaming.tls_client_ca_file`;
  throw new CribError("InvalidArgument", message);
}

/**
 * Parses `section.key=value`. The value is TOML where that is valid and fits the key; otherwise it is the
 * string as it stands, so that paths and words need no quotes.
 */
function parseAssignment(assignment: string): Table {
  const source = { name: `--set ${assignment}` };
  const split = /^((?:[^="']|"[^"]*"|'[^']*')+)=(.*)$/s.exec(assignment);
  const [, name, value] = split ?? [];
  if (name === undefined || value === undefined || !name.includes(".")) {
    throw new CribError("InvalidArgument", `${source.name}: must look like section.key=value`);
  }
  const typed = tryParse(`${name} = ${value}`);
  if (typed !== undefined && v.safeParse(configSchema, typed).success) return typed;
  const bare = tryParse(`${name} = ${JSON.stringify(value)}`);
  if (bare === undefined) {
    throw new CribError("InvalidArgument", `${source.name}: "${name}" is not a key`);
  }
  const fits = (v.safeParse(configSchema, bare).issues ?? []).every(isMissingKey);
  const table = fits || typed === undefined ? bare : typed;
  checkAlone(table, source);
  return table;
}

function tryParse(text: string): TomlTable | undefined {
  try {
    return parse(text);
  } catch (error) {
    if (error instanceof TomlError) return undefined;
    throw error;
  }
}

function merge(below: Table, above: Table): Table {
  const result: Table = { ...below };
  for (const [name, value] of Object.entries(above)) {
    const old = Object.hasOwn(result, name) ? result[name] : undefined;
    result[name] = isTable(old) && isTable(value) ? merge(old, value) : value;
  }
  return result;
}

function isTable(value: unknown): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
