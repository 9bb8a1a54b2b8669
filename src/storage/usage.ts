import { lstatSync, readdirSync } from "node:fs";
import { lstat, readdir } from "node:fs/promises";
import { join } from "node:path";

const BLOCK_BYTES = 512;

/** Bytes on disk (whole blocks) and inodes. */
export interface Usage {
  bytes: number;
  inodes: number;
}

/**
 * Bytes on disk and inodes of a directory tree, itself included; hard links count once. What
 * disappears while it is read is left out; a directory that is not there is zero.
 */
export async function diskUsage(root: string): Promise<Usage> {
  const usage = { bytes: 0, inodes: 0 };
  const linked = new Set<string>();
  const pending: Buffer[] = [Buffer.from(root)];
  const add = async (path: Buffer) => {
    const stat = await ifThere(lstat(path));
    if (stat === undefined) return;
    if (stat.nlink > 1 && !stat.isDirectory()) {
      const inode = `${stat.dev}:${stat.ino}`;
      if (linked.has(inode)) return;
      linked.add(inode);
    }
    usage.bytes += stat.blocks * BLOCK_BYTES;
    usage.inodes += 1;
    if (stat.isDirectory()) pending.push(path);
  };
  await add(pending.pop() as Buffer);
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    // Not with file types: Bun 1.4.5 gives entries without names for buffers.
    const names = await ifThere(readdir(path, { encoding: "buffer" }));
    for (const name of names ?? []) await add(Buffer.concat([path, SLASH, name]));
  }
  return usage;
}

const SLASH = Buffer.from("/");

async function ifThere<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw error;
  }
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
