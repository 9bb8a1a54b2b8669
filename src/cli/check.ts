/** `crib check`: tells what this node lacks, with the remedy for each. */
import { type Config, defaultConfig, loadConfig } from "../config/config.ts";
import { CribError } from "../error.ts";
import { readEngines } from "./check/engine-facts.ts";
import { checkEngines } from "./check/engines.ts";
import { readKernel, readPlaces } from "./check/facts.ts";
import { type Finding, fail, type Level, ok } from "./check/finding.ts";
import { checkKernel } from "./check/kernel.ts";
import { checkPlaces } from "./check/places.ts";

export interface CheckOptions {
  config?: string;
  set?: string[];
  root?: string;
  state?: string;
  socket?: string;
  json?: boolean;
}

/**
 * Looks at the machine and prints one line for each check. Nothing is changed; containers that are made
 * to try out the OCI runtimes are removed at once.
 *
 * @returns the exit status: 1 when something is missing, 0 with warnings only.
 */
export async function check(options: CheckOptions): Promise<number> {
  const { config, finding } = await configuration(options);
  const [engines, places] = await Promise.all([readEngines(config), readPlaces(config)]);
  const findings = [
    finding,
    ...checkEngines(engines),
    ...checkKernel(readKernel()),
    ...checkPlaces(places),
  ];
  process.stdout.write(options.json ? renderJson(findings) : renderText(findings));
  return findings.some(({ level }) => level === "fail") ? 1 : 0;
}

/** With a configuration that is not valid the rest is checked for the defaults. */
async function configuration(options: CheckOptions): Promise<{ config: Config; finding: Finding }> {
  const { config: file, set, root, state, socket } = options;
  try {
    const config = await loadConfig({ file, set, flags: { root, state, socket } });
    return { config, finding: ok("configuration", file ?? "valid") };
  } catch (error) {
    if (!(error instanceof CribError)) throw error;
    const finding = fail("configuration", error.message, "crib config --default shows every key");
    return { config: defaultConfig(), finding };
  }
}

/** {"ok": boolean, "findings": [{"check", "level", "message", "remedy"?}]} */
export function renderJson(findings: readonly Finding[]): string {
  const good = findings.every(({ level }) => level !== "fail");
  return `${JSON.stringify({ ok: good, findings }, null, 2)}\n`;
}

const MARKS: Record<Level, string> = { ok: "✓", warn: "!", fail: "✗" };

/** One line for each finding, its remedy under it, and how many of which at the end. */
export function renderText(findings: readonly Finding[]): string {
  const width = Math.max(...findings.map(({ check: name }) => name.length)) + 2;
  const lines = findings.flatMap(({ check: name, level, message, remedy }) => {
    const indent = `\n${" ".repeat(width + 2)}`;
    const line = `${MARKS[level]} ${name.padEnd(width)}${message.replaceAll("\n", indent)}`;
    return remedy === undefined ? [line] : [line, `${" ".repeat(width + 2)}→ ${remedy}`];
  });
  const count = (wanted: Level) => findings.filter(({ level }) => level === wanted).length;
  lines.push("", `${count("ok")} ok, ${count("warn")} to know (!), ${count("fail")} missing (✗)`);
  return `${lines.join("\n")}\n`;
}
