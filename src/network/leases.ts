/**
 * The leases of host-local, the only IPAM plugin that keeps its state in plain files without syncing them:
 * `<dataDir>/<network>/<address>`, whose content says whose it is. A power cut leaves such files empty, and
 * then no DEL finds them: the address would be lost for ever. So they are synced here, and what a cut has
 * emptied all the same is dropped after the boot.
 *
 * Source: "Supported arguments" and "Files" of the plugin's documentation (cni.dev/plugins/current/ipam/host-local).
 */
import { constants } from "node:fs";
import { lstat, open, readdir, readFile, rm } from "node:fs/promises";
import { isIP } from "node:net";
import { join } from "node:path";
import { codeOf } from "../linux/errno.ts";
import type { CniNetwork } from "./conflist.ts";

const DEFAULT_DATA_DIR = "/var/lib/cni/networks";

/** Where host-local may keep leases of this network; also by default, as other plugins delegate to it. */
export function leaseDirectories({ name, plugins }: CniNetwork): string[] {
  const own = plugins.flatMap(({ ipam }) => {
    const dataDir = ipam?.type === "host-local" ? ipam.dataDir : undefined;
    return typeof dataDir === "string" && dataDir !== "" ? [dataDir] : [];
  });
  return [...new Set([DEFAULT_DATA_DIR, ...own])].map((dataDir) => join(dataDir, name));
}

/** Returns when the leases of these addresses, and the end of others, are on disk. */
export async function syncLeases(directories: string[], addresses: string[]): Promise<void> {
  for (const directory of directories) {
    const leases = addresses.map((address) => join(directory, address));
    await Promise.all([...leases, directory].map(syncIfThere));
  }
}

/**
 * Removes leases that a power cut has emptied: those without content that were written before this boot,
 * because nobody who could own them is alive. Gives their paths.
 *
 * @param bootMs when this boot began, in milliseconds since 1970.
 */
export async function dropEmptyLeases(directories: string[], bootMs: number): Promise<string[]> {
  const dropped: string[] = [];
  for (const directory of directories) {
    for (const name of await namesIn(directory)) {
      const path = join(directory, name);
      if (isIP(name) === 0 || !(await isEmptySince(path, bootMs))) continue;
      await rm(path, { force: true });
      dropped.push(path);
    }
    await syncIfThere(directory);
  }
  return dropped;
}

/** When this boot began (btime of proc_stat(5)), in milliseconds since 1970. */
export async function bootTimeMs(): Promise<number> {
  const [, seconds] = /^btime (\d+)$/m.exec(await readFile("/proc/stat", "utf8")) ?? [];
  if (seconds === undefined) throw new Error("/proc/stat has no btime");
  return Number(seconds) * 1000;
}

async function isEmptySince(path: string, limitMs: number): Promise<boolean> {
  try {
    const lease = await lstat(path);
    return lease.isFile() && lease.size === 0 && lease.mtimeMs < limitMs;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return false; // freed while we looked
    throw error;
  }
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return [];
    throw error;
  }
}

async function syncIfThere(path: string): Promise<void> {
  try {
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
  }
}
