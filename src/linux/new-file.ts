/**
 * Making many files, each with few system calls and without allocating: what node:fs spends on a
 * small file is more than the kernel does. The scratch memory is shared: all calls are synchronous.
 */
import { constants, openSync } from "node:fs";
import type { FileTime } from "./file.ts";
import { attempt } from "./kernel-file.ts";
import { buffer, check, cstring, libc } from "./libc.ts";

const c = libc({
  open: { args: ["ptr", "i32", "u32"], returns: "i32" },
  statx: { args: ["i32", "ptr", "i32", "u32", "ptr"], returns: "i32" },
  futimens: { args: ["i32", "ptr"], returns: "i32" },
});

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants;
const O_CLOEXEC = 0o2000000;
const AT_EMPTY_PATH = 0x1000;
const STATX_BASIC_STATS = 0x7ff;
const PERMISSIONS = 0o7777;

const path = buffer(4096);
const times = buffer(32);
const timesView = new DataView(times.buffer);
/** struct statx of statx(2), the same on all architectures. */
const status = buffer(256);
const statusView = new DataView(status.buffer);
const NOTHING = buffer(1);

/** Creates a file that must not exist, for writing; returns its descriptor. Throws a `SyscallError`. */
export function createFile(name: Uint8Array, mode: number): number {
  const flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  const fd = c.open(terminated(name), flags, mode);
  // `errno` is not certain in a changed root, and callers tell a full disk from a bad archive.
  return fd >= 0
    ? fd
    : attempt("open", "a new file", () => openSync(Buffer.from(name), flags, mode));
}

function terminated(name: Uint8Array): Uint8Array {
  if (name.length >= path.length || name.includes(0)) return cstring(name);
  path.set(name);
  path[name.length] = 0;
  return path;
}

/** What statx(2) says of an open file; `mode` without the type, `blocks` of 512 bytes. */
export function statusOf(fd: number): { mode: number; uid: number; gid: number; blocks: number } {
  check(c.statx(fd, NOTHING, AT_EMPTY_PATH, STATX_BASIC_STATS, status), "statx");
  return {
    uid: statusView.getUint32(20, true),
    gid: statusView.getUint32(24, true),
    mode: statusView.getUint16(28, true) & PERMISSIONS,
    blocks: Number(statusView.getBigUint64(48, true)),
  };
}

/** futimens(3). */
export function setTimesOf(fd: number, access: FileTime, modify: FileTime): void {
  timesView.setBigInt64(0, BigInt(access.seconds), true);
  timesView.setBigInt64(8, BigInt(access.nanoseconds), true);
  timesView.setBigInt64(16, BigInt(modify.seconds), true);
  timesView.setBigInt64(24, BigInt(modify.nanoseconds), true);
  check(c.futimens(fd, times), "futimens");
}
