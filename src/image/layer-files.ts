/** What a layer's writer asks of single files, and what their failures mean. */
import { constants, lstatSync, mkdirSync, type Stats } from "node:fs";
import { messageOf } from "../error.ts";
import { codeOf } from "../linux/errno.ts";
import { deviceNumber } from "../linux/file.ts";
import { SyscallError } from "../linux/libc.ts";
import { quote } from "./layer-path.ts";
import type { TarEntry } from "./tar.ts";
import { TarError } from "./tar-error.ts";

const { S_IFBLK, S_IFCHR } = constants;

/** Undefined when it is gone, or what was above it is no directory any more. */
export function statusAt(path: Buffer): Stats | undefined {
  try {
    return lstatSync(path);
  } catch (error) {
    if (["ENOENT", "ENOTDIR", "ELOOP", "ENAMETOOLONG"].includes(codeOf(error))) return undefined;
    throw error;
  }
}

/** mkdir(2); returns the code of a failure that the caller can do something about. */
export function tryMkdir(path: Buffer, mode: number): string | undefined {
  try {
    mkdirSync(path, { mode });
    return undefined;
  } catch (error) {
    const code = codeOf(error);
    if (code === "ENOENT" || code === "ENOTDIR" || code === "EEXIST") return code;
    throw error;
  }
}

/** The mode that mknod(2) takes for a device. */
export function deviceMode(entry: TarEntry): number {
  return (entry.type === "char" ? S_IFCHR : S_IFBLK) | 0o600;
}

/** The device's number for mknod(2). Throws a `TarError`. */
export function deviceOf(entry: TarEntry): number {
  const { major, minor } = entry;
  // Longer numbers would be cut, and name another device.
  if (major < 0 || major > 0xfff || minor < 0 || minor > 0xfffff)
    throw new TarError(`device ${major}:${minor}`);
  return deviceNumber(major, minor);
}

/** Overlayfs's mark of what a layer takes away from those below. */
export function isWhiteout(stat: { isCharacterDevice(): boolean; rdev: number }): boolean {
  return stat.isCharacterDevice() && stat.rdev === 0;
}

/** Names the entry in a failure that is the archive's fault; a full disk stays what it is. */
export function explain(error: unknown, entry: TarEntry): unknown {
  if (error instanceof TarError || ENVIRONMENT.has(codeOf(error))) return error;
  // The message of an error of node:fs has the path in it, of any length and with any byte.
  const code = codeOf(error);
  const cause = error instanceof SyscallError || code === "" ? messageOf(error) : code;
  return new TarError(`entry ${quote(entry.name)} (${entry.type}): ${cause}`);
}

const ENVIRONMENT = new Set(["ENOSPC", "EDQUOT", "EIO", "EROFS", "EMFILE", "ENFILE", "ENOMEM"]);
