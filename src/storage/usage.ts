import { lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";

const BLOCK_BYTES = 512;

/** Bytes on disk (whole blocks) and inodes. */
export interface Usage {
  bytes: number;
  inodes: number;
}

/** Bytes on disk of one file or directory, without what is in it; nothing when it is not there. */
export function sizeOf(path: string): Usage {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  return stat === undefined
    ? { bytes: 0, inodes: 0 }
    : { bytes: stat.blocks * BLOCK_BYTES, inodes: 1 };
}

/** The same of a directory with the few files in it, at once. */
export function sizeOfFiles(directory: string): Usage {
  const total = sizeOf(directory);
  if (total.inodes === 0) return total;
  for (const name of readdirSync(directory)) {
    const { bytes, inodes } = sizeOf(join(directory, name));
    total.bytes += bytes;
    total.inodes += inodes;
  }
  return total;
}
