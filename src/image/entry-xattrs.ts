/** Extended attributes of a layer's entries: which are refused, left out, or set. */
import { crc32 } from "node:zlib";
import { codeOf } from "../linux/errno.ts";
import { getXattr, setXattr } from "../linux/file.ts";
import { quote } from "./layer-path.ts";
import type { TarEntry } from "./tar.ts";
import { TarError } from "./tar-error.ts";

/** Overlayfs's own: an archive must not redirect a directory or hide one. */
const RESERVED = /^(?:trusted|user)\.overlay(?:\.|$)/;
/** Labels belong to the host's policy, not to the image. */
const IGNORED = "security.selinux";

/** Throws a `TarError` when an entry has attributes that no layer may bring. */
export function checkXattrs(entry: TarEntry): void {
  for (const name of entry.xattrs.keys()) {
    if (RESERVED.test(name) || name.includes("\0")) {
      throw new TarError(`${quote(entry.name)}: extended attribute ${name} is not allowed`);
    }
  }
}

/** Attributes that the file system cannot hold are left out; a lost capability is an error. */
export function setXattrs(path: Buffer, entry: TarEntry): void {
  if (entry.xattrs.size === 0) return;
  for (const [name, value] of entry.xattrs) {
    if (name === IGNORED) continue;
    try {
      setXattr(path, name, value);
    } catch (error) {
      const code = codeOf(error);
      const mayFail = code === "EOPNOTSUPP" || (code === "EPERM" && name.startsWith("user."));
      if (!mayFail || name === "security.capability") throw error;
    }
  }
}

/** What is there of an entry's attributes now, by the CRC-32 of their values; undefined when nothing is. */
export function xattrsThere(path: Buffer, entry: TarEntry): Record<string, number> | undefined {
  const there = [...entry.xattrs.keys()].flatMap((name): Array<[string, number]> => {
    const value = name === IGNORED ? undefined : getXattr(path, name);
    return value === undefined ? [] : [[name, crc32(value)]];
  });
  return there.length === 0 ? undefined : Object.fromEntries(there);
}
