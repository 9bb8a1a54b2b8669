/** Finds the network configuration on disk and notices when it changes. */
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { codeOf } from "../linux/errno.ts";
import { readRegularFile } from "../linux/regular-file.ts";
import { type ConfList, parseConfList, parsePluginConf } from "./conflist.ts";

/** What the configuration directory holds: a network, or the reason why there is none. */
export type Configured =
  | { list: ConfList; file: string; fingerprint: string }
  | { problem: string; missing: boolean; fingerprint: string };

/**
 * The configuration directory, read again only when a file in use changed.
 *
 * The first `.conf`, `.conflist` or `.json` file in lexical order is the network. A broken first file is a
 * problem that is told, never skipped: pods would silently land on another network.
 */
export class ConfDir {
  #last: Configured | undefined;

  constructor(readonly directory: string) {}

  /** The configuration as it is now. Costs a directory listing and a stat when nothing changed. */
  read(): Configured {
    let file: string | undefined;
    try {
      file = configFiles(this.directory, [".conf", ".conflist", ".json"])[0];
    } catch (error) {
      if (codeOf(error) !== "ENOENT") {
        return this.#problem(`${this.directory}: cannot be read: ${describe(error)}`, false);
      }
    }
    if (file === undefined) {
      return this.#problem(`${this.directory}: there is no CNI configuration file`, true);
    }
    try {
      return this.#load(file);
    } catch (error) {
      return this.#problem(`${file}: ${describe(error)}`, codeOf(error) === "ENOENT");
    }
  }

  #problem(problem: string, missing: boolean): Configured {
    this.#last = { problem, missing, fingerprint: problem };
    return this.#last;
  }

  #load(file: string): Configured {
    const last = this.#last;
    const own = stamp(file);
    if (last !== undefined && "list" in last && last.file === file) {
      if (last.fingerprint === [own, ...this.#siblings(last.list).map(stamp)].join("\n")) {
        return last;
      }
    }
    const list = parseConfList(readRegularFile(file).toString());
    const siblings = this.#siblings(list);
    for (const sibling of siblings) {
      try {
        list.plugins.push(parsePluginConf(readRegularFile(sibling).toString()));
      } catch (error) {
        throw new Error(`${sibling}: ${describe(error)}`);
      }
    }
    if (list.plugins.length === 0) throw new Error("plugins: there is none");
    this.#last = { list, file, fingerprint: [own, ...siblings.map(stamp)].join("\n") };
    return this.#last;
  }

  /** Files that other software dropped beside the network to add plugins to it (CNI 1.1). */
  #siblings(list: ConfList): string[] {
    if (list.loadOnlyInlinedPlugins) return [];
    try {
      return configFiles(join(this.directory, list.name), [".conf"]);
    } catch (error) {
      const code = codeOf(error);
      if (code === "ENOENT" || code === "ENOTDIR") return [];
      throw error;
    }
  }
}

function configFiles(directory: string, extensions: string[]): string[] {
  return readdirSync(directory, { withFileTypes: true })
    .filter((entry) => !entry.isDirectory() && extensions.some((end) => entry.name.endsWith(end)))
    .map((entry) => join(directory, entry.name))
    .sort();
}

/** Changes when the file is written, replaced or moved. */
export function stamp(file: string): string {
  const { dev, ino, size, mtimeNs, ctimeNs } = statSync(file, { bigint: true });
  return [file, dev, ino, size, mtimeNs, ctimeNs].join(" ");
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
