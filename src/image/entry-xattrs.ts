/** Extended attributes of a layer's entries: which are left out, and which are set. */
import { crc32 } from "node:zlib";
import { codeOf } from "../linux/errno.ts";
import { getXattr, setXattr } from "../linux/file.ts";
import type { TarEntry } from "./tar.ts";

/** Overlayfs's own: an archive must not redirect a directory or hide one. */
const RESERVED = /^(?:trusted|user)\.overlay(?:\.|$)/;
/** Labels belong to the host's policy, not to the image. */
const IGNORED = "security.selinux";

/** The entry without what no layer may bring; `warn` gets the names of that. */
export function withoutReserved(entry: TarEntry, warn: (name: string) => void): TarEntry {
  const reserved = [...entry.xattrs.keys()].filter((name) => RESERVED.test(name));
  if (reserved.length === 0) return entry;
  const xattrs = new Map(entry.xattrs);
  for (const name of reserved) {
    xattrs.delete(name);
    warn(name);
  }
  return { ...entry, xattrs };
}

/**
 * Attributes that the file system cannot hold are left out, as containerd and CRI-O do. Not so a capability:
 * the program that has lost it fails later, where nobody finds the cause.
 */
export function setXattrs(path: Buffer, entry: TarEntry): void {
  if (entry.xattrs.size === 0) return;
  for (const [name, value] of entry.xattrs) {
    if (name === IGNORED) continue;
    try {
      surely(() => setXattr(path, name, value));
    } catch (error) {
      const code = codeOf(error);
      const mayFail = code === "EOPNOTSUPP" || (code === "EPERM" && name.startsWith("user."));
      if (!mayFail || name === "security.capability") throw error;
    }
  }
}

/** Again, when a file that is there is said not to be: what `errno` is in a changed root is not certain. */
function surely<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
    return call();
  }
}

/** What is there of an entry's attributes now, by the CRC-32 of their values; undefined when nothing is. */
export function xattrsThere(path: Buffer, entry: TarEntry): Record<string, number> | undefined {
  const there = [...entry.xattrs.keys()].flatMap((name): Array<[string, number]> => {
    const value = name === IGNORED ? undefined : surely(() => getXattr(path, name));
    return value === undefined ? [] : [[name, crc32(value)]];
  });
  return there.length === 0 ? undefined : Object.fromEntries(there);
}
