/** Turns what valibot found into sentences that name the file, the line, the key and the value. */
import type * as v from "valibot";
import { configSchema } from "./schema.ts";

/** One place that configuration comes from: a file, a `--set`, a flag. */
export interface Source {
  /** As shown to the user: a path, or `--set log.level=loud`. */
  name: string;
  /** The text of a file, to find the line of a key in it. */
  text?: string;
}

type Issue = v.InferIssue<typeof configSchema>;

/** `true` for a key that must be there and is not; another source may still bring it. */
export function isMissingKey(issue: Issue): boolean {
  return issue.type === "strict_object" && issue.received === "undefined";
}

/**
 * One line for each problem, in the order of the file:
 * `crib.toml:3: log.levle: unknown key (did you mean log.level?)`.
 */
export function describeIssues(issues: readonly Issue[], source: Source): string {
  const problems = issues.map((issue) => {
    const keys = (issue.path ?? []).map((item) => String(item.key));
    const line = source.text === undefined ? undefined : lineOf(source.text, keys);
    const where = line === undefined ? source.name : `${source.name}:${line}`;
    return { line, text: `${where}: ${formatKeys(keys)}: ${describeProblem(issue, keys)}` };
  });
  problems.sort((a, b) => (a.line ?? 0) - (b.line ?? 0));
  return problems.map((problem) => problem.text).join("\n");
}

function describeProblem(issue: Issue, keys: string[]): string {
  if (isMissingKey(issue)) return "is missing";
  if (issue.type === "strict_object" && issue.expected === "never") {
    const near = nearestKey(keys);
    return `unknown key${near === undefined ? "" : ` (did you mean ${near}?)`}`;
  }
  const value = showValue(issue.input);
  if (issue.type === "picklist") {
    return `${value} is not one of ${String(issue.expected).replace(/[()"]/g, "").replaceAll(" | ", ", ")}`;
  }
  if (issue.kind === "schema" && issue.type !== "union") {
    return `${value} is not ${TYPES[String(issue.expected)] ?? String(issue.expected)}`;
  }
  return `${value} ${issue.message}`;
}

const TYPES: Record<string, string> = {
  string: "a string",
  number: "a number",
  Array: "an array",
  Object: "a table",
};

function showValue(value: unknown): string {
  const shown = JSON.stringify(value) ?? String(value);
  return shown.length > 100 ? `${shown.slice(0, 100)}…` : shown;
}

/** Writes a key path as TOML does: `runtime.default_sysctls."net.ipv4.ip_forward"`. */
function formatKeys(keys: string[]): string {
  return keys.map((key) => (/^[A-Za-z0-9_-]+$/.test(key) ? key : JSON.stringify(key))).join(".");
}

/** The known key that resembles an unknown one most, first in its own table, then anywhere. */
function nearestKey(keys: string[]): string | undefined {
  const last = keys.at(-1) ?? "";
  const parent = keys.slice(0, -1);
  const siblings = entriesAt(parent).map((name) => [...parent, name]);
  const all = Object.keys(configSchema.entries).flatMap((name) => [
    [name],
    ...entriesAt([name]).map((entry) => [name, entry]),
  ]);
  for (const candidates of [siblings, all]) {
    let best: string[] | undefined;
    let bestDistance = Math.max(2, Math.floor(last.length / 3)) + 1;
    for (const candidate of candidates) {
      const distance = editDistance(last, candidate.at(-1) ?? "");
      if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
    }
    if (best !== undefined) return formatKeys(best);
  }
  return undefined;
}

/** The names of the keys of a table of the schema; none for what is not a fixed table. */
function entriesAt(keys: string[]): string[] {
  if (keys.length === 0) return Object.keys(configSchema.entries);
  const name = keys[0] as keyof typeof configSchema.entries;
  const table = configSchema.entries[name]?.wrapped.entries;
  if (table === undefined) return [];
  if (keys.length === 1) return Object.keys(table);
  const isHandler = keys.length === 3 && keys[0] === "runtime" && keys[1] === "handlers";
  return isHandler
    ? Object.keys(configSchema.entries.runtime.wrapped.entries.handlers.wrapped.value.entries)
    : [];
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replace = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min((previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, replace));
    }
    previous = row;
  }
  return previous[b.length] ?? 0;
}

/**
 * The line of a key in a TOML file, from 1; of the nearest enclosing table when the key itself is written
 * in a form that this search does not see (inside an inline table or an array). The TOML parser keeps no
 * positions, so this reads the headers and the keys at the start of each line again.
 */
function lineOf(text: string, keys: string[]): number | undefined {
  let table: string[] = [];
  let best: { line: number; depth: number } | undefined;
  for (const [index, line] of text.split("\n").entries()) {
    const header = /^\s*\[\[?([^\]]+)\]/.exec(line)?.[1];
    if (header !== undefined) table = splitKey(header);
    const name = /^\s*((?:[A-Za-z0-9_.\-\s]|"[^"]*"|'[^']*')+?)\s*=/.exec(line)?.[1];
    if (header === undefined && name === undefined) continue;
    const path = name === undefined ? table : [...table, ...splitKey(name)];
    if (path.length > keys.length || path.some((part, i) => part !== keys[i])) continue;
    if (best === undefined || path.length > best.depth) {
      best = { line: index + 1, depth: path.length };
    }
  }
  return best?.line;
}

function splitKey(key: string): string[] {
  const parts = key.match(/"[^"]*"|'[^']*'|[^.\s]+/g) ?? [];
  return parts.map((part) => part.replace(/^["']|["']$/g, ""));
}
