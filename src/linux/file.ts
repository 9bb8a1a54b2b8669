/**
 * File calls that node:fs lacks or rounds: opening inside a root, device nodes, extended attributes,
 * nanosecond times, syncfs. Paths are strings or raw bytes (names need not be UTF-8).
 */
import { closeSync, constants, fstatSync, openSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { codeOf } from "./errno.ts";
import { buffer, check, cstring, libc, SyscallError } from "./libc.ts";
import { O_PATH } from "./open-flags.ts";

const c = libc({
  lsetxattr: { args: ["ptr", "ptr", "ptr", "u64", "i32"], returns: "i32" },
  lgetxattr: { args: ["ptr", "ptr", "ptr", "u64"], returns: "i64" },
  llistxattr: { args: ["ptr", "ptr", "u64"], returns: "i64" },
  utimensat: { args: ["i32", "ptr", "ptr", "i32"], returns: "i32" },
  syncfs: { args: ["i32"], returns: "i32" },
});
const openat2 = libc({
  syscall: { args: ["i64", "i32", "ptr", "ptr", "u64"], returns: "i64" },
});
const mknodat = libc({
  syscall: { args: ["i64", "i32", "ptr", "u32", "u32"], returns: "i64" },
});

const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const SYS_OPENAT2 = 437;
/** glibc exports mknodat only since 2.33, so by number. */
const SYS_MKNODAT = process.arch === "arm64" ? 33 : 259;
const RESOLVE_NO_MAGICLINKS = 0x02;
const RESOLVE_IN_ROOT = 0x10;
const O_CLOEXEC = 0o2000000;

/**
 * openat2(2) with RESOLVE_IN_ROOT: `path` is resolved as if `root` were "/", symlinks and ".."
 * included, so it cannot leave it. `flags` are those of node:fs `constants` (O_CLOEXEC is added).
 * Returns a file descriptor that the caller closes. Throws a `SyscallError`.
 */
export function openInRoot(
  root: string,
  path: string | Uint8Array,
  flags: number = constants.O_RDONLY,
  mode = 0,
): number {
  const directory = openSync(root, O_PATH | constants.O_DIRECTORY);
  try {
    const how = buffer(24);
    const view = new DataView(how.buffer);
    view.setBigUint64(0, BigInt(flags | O_CLOEXEC), true);
    view.setBigUint64(8, BigInt(mode), true);
    view.setBigUint64(16, BigInt(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS), true);
    const fd = openat2.syscall(SYS_OPENAT2, directory, cstring(path), how, how.length);
    return check(fd, "openat2", `${text(path)} in ${root}`);
  } finally {
    closeSync(directory);
  }
}

/**
 * Opens a regular file inside `root` (see `openInRoot`) to be read; undefined when it does not exist.
 * Something other than a regular file is never opened (a FIFO would block, a device would act): EINVAL.
 */
export async function openFileInRoot(root: string, path: string): Promise<FileHandle | undefined> {
  let handle: number;
  try {
    handle = openInRoot(root, path, O_PATH);
  } catch (error) {
    if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return undefined;
    throw error;
  }
  try {
    if (!fstatSync(handle).isFile()) throw new SyscallError("openat2", EINVAL, path);
    return await open(`/proc/self/fd/${handle}`, constants.O_RDONLY);
  } finally {
    closeSync(handle);
  }
}

const EINVAL = 22;
const ERANGE_RETRIES = 5;
/** The most that the kernel gives (limits.h). */
const XATTR_LIST_MAX = 64 * 1024;
/** Scratch memory: calls are synchronous, and there may be very many. */
const names = buffer(XATTR_LIST_MAX);

/** The kernel's encoding of a device number in mknod(2). */
export function deviceNumber(major: number, minor: number): number {
  return ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & ~0xff) << 12)) >>> 0;
}

/** mknod(2). `mode` holds the file type (S_IFCHR, S_IFBLK, S_IFIFO) and the permissions. */
export function mknod(path: string | Uint8Array, mode: number, device = 0): void {
  check(mknodat.syscall(SYS_MKNODAT, AT_FDCWD, cstring(path), mode, device), "mknod");
}

/** lsetxattr(2): sets an extended attribute of the path itself, also of a symlink. */
export function setXattr(
  path: string | Uint8Array,
  name: string | Uint8Array,
  value: Uint8Array,
): void {
  const copy = buffer(Math.max(1, value.length));
  copy.set(value);
  check(c.lsetxattr(cstring(path), cstring(name), copy, value.length, 0), "lsetxattr", text(name));
}

/** lgetxattr(2): the value, or undefined when the attribute is absent or not supported. */
export function getXattr(
  path: string | Uint8Array,
  name: string | Uint8Array,
): Uint8Array | undefined {
  for (let attempt = 1; ; attempt++) {
    try {
      const where = cstring(path);
      const key = cstring(name);
      const size = check(c.lgetxattr(where, key, null, 0), "lgetxattr", text(name));
      const value = buffer(Math.max(1, size));
      return value.subarray(
        0,
        check(c.lgetxattr(where, key, value, size), "lgetxattr", text(name)),
      );
    } catch (error) {
      const code = codeOf(error);
      if (code === "ENODATA" || code === "EOPNOTSUPP") return undefined;
      if (code !== "ERANGE" || attempt === ERANGE_RETRIES) throw error;
    }
  }
}

/** llistxattr(2): the names of all that `getXattr` would find; none where they are not supported. */
export function listXattrs(path: string | Uint8Array): string[] {
  const where = cstring(path);
  let length: number;
  try {
    length = check(c.llistxattr(where, names, names.length), "llistxattr", text(path));
  } catch (error) {
    if (codeOf(error) === "EOPNOTSUPP") return [];
    throw error;
  }
  return Buffer.from(names.subarray(0, length)).toString("utf8").split("\0").filter(Boolean);
}

/** Seconds since 1970 (may be negative) and nanoseconds within the second. */
export interface FileTime {
  seconds: number;
  nanoseconds: number;
}

/** utimensat(2) on the path itself, never through a symlink. */
export function setTimes(path: string | Uint8Array, access: FileTime, modify: FileTime): void {
  const times = buffer(32);
  const view = new DataView(times.buffer);
  view.setBigInt64(0, BigInt(access.seconds), true);
  view.setBigInt64(8, BigInt(access.nanoseconds), true);
  view.setBigInt64(16, BigInt(modify.seconds), true);
  view.setBigInt64(24, BigInt(modify.nanoseconds), true);
  check(c.utimensat(AT_FDCWD, cstring(path), times, AT_SYMLINK_NOFOLLOW), "utimensat");
}

/** syncfs(2): everything written to the file system that holds `path` is on disk when it returns. */
export function syncFileSystem(path: string): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    check(c.syncfs(fd), "syncfs", path);
  } finally {
    closeSync(fd);
  }
}

function text(name: string | Uint8Array): string {
  return typeof name === "string" ? name : Buffer.from(name).toString("latin1");
}
