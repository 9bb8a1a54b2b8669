import { lstat, readdir } from "node:fs/promises";

const BLOCK_BYTES = 512;

/**
 * Bytes on disk and inodes of a directory tree, itself included; hard links count once. What
 * disappears while it is read is left out; a directory that is not there is zero.
 */
export async function diskUsage(root: string): Promise<{ bytes: number; inodes: number }> {
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
