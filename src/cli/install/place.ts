/** Where the parts of an installation are, and what is there now. */
import { existsSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { type Config, DEFAULT_CONFIG_FILE, loadConfig } from "../../config/config.ts";
import { CribError } from "../../error.ts";
import { runCommand } from "../../linux/command.ts";
import { executable } from "../executable.ts";

export interface PlaceOptions {
  /** A directory that stands for "/": for images and tests. */
  rootDir?: string;
  /** Where crib.toml is; default /etc/crib. */
  configDir?: string;
  dryRun?: boolean;
}

/** The paths of one installation, as they are on the node (without `prefix`). */
export interface Place {
  prefix: string;
  configDir: string;
  configFile: string;
  dropInDir: string;
  config: Config;
}

const COMMAND_DEADLINE_MS = 120_000;

/** @throws CribError: a path that is not absolute; a configuration that is not valid. */
export async function findPlace(options: PlaceOptions): Promise<Place> {
  const prefix = (options.rootDir ?? "").replace(/\/+$/, "");
  const configDir = (options.configDir ?? "/etc/crib").replace(/\/+$/, "");
  for (const [name, path] of [
    ["--root-dir", prefix === "" ? "/" : prefix],
    ["--config-dir", configDir],
  ]) {
    // The path goes into a unit file, where spaces, quotes and % have a meaning.
    if (!/^\/[A-Za-z0-9_./@+-]*$/.test(path ?? "") || path === "") {
      const wants = "must be an absolute path of letters, digits and ._-+@/";
      throw new CribError("InvalidArgument", `${name}: ${JSON.stringify(path)} ${wants}`);
    }
  }
  if (prefix === "" && !options.dryRun && process.geteuid?.() !== 0) {
    throw new CribError("PermissionDenied", "this needs root (or --dry-run)");
  }
  const configFile = configDir === "/etc/crib" ? DEFAULT_CONFIG_FILE : join(configDir, "crib.toml");
  const config = await loadConfig({ file: prefix + configFile, fileRequired: false });
  return { prefix, configDir, configFile, dropInDir: join(configDir, "crib.d"), config };
}

/** The text of a file of the installation; undefined when there is none. */
export function readPlaced(place: Place, path: string): string | undefined {
  return existsSync(place.prefix + path) ? readFileSync(place.prefix + path, "utf8") : undefined;
}

/**
 * The running executable: where to read it, and where it was started from.
 *
 * @throws CribError FailedPrecondition: this is not the built executable.
 */
export function ownExecutable(): { source: string; path: string } {
  const [source = "", ...rest] = executable();
  if (rest.length > 0) {
    const message = "crib runs from its sources: build it and run dist/crib install";
    throw new CribError("FailedPrecondition", message);
  }
  return { source, path: readlinkSync("/proc/self/exe").replace(/ \(deleted\)$/, "") };
}

/** @throws CribError FailedPrecondition with what systemctl said. */
export async function systemctl(...args: string[]): Promise<void> {
  const result = await runCommand(["systemctl", ...args], { deadlineMs: COMMAND_DEADLINE_MS });
  if (result.exitCode === 0 && !result.timedOut) return;
  const said = result.timedOut ? "no end in sight" : result.stderr.trim().split("\n")[0];
  throw new CribError(
    "FailedPrecondition",
    `systemctl ${args.join(" ")}: ${said} (journalctl -u crib.service tells more)`,
  );
}

/** One line of the report: "created    /etc/crib/crib.toml". */
export function say(action: string, what: string, note?: string): void {
  process.stdout.write(`${action.padEnd(10)} ${what}${note === undefined ? "" : ` (${note})`}\n`);
}
