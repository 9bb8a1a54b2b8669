/**
 * `crib disk-usage DIRECTORY`: what a large tree takes on disk, as a line of JSON. Only `crib serve` calls it.
 *
 * A process of its own: a container can make as many files as its disk takes, and their walk is seconds
 * of processor time.
 */
import { walkTree } from "../stats/tree-usage.ts";

/** Standard output gets `{"bytes": ..., "inodes": ...}`, or null when the directory is not there. */
export function diskUsage(directory: string): void {
  process.stdout.write(`${JSON.stringify(walkTree(directory) ?? null)}\n`);
}
