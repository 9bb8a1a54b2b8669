/**
 * The calling convention of `src/linux`: libc through bun:ffi, errors as `SyscallError`.
 *
 * Buffers handed to the kernel are made by `buffer()` and `cstring()`: a small `Uint8Array` that Bun
 * allocated itself may move once `.buffer` is touched, and the kernel would then write elsewhere.
 */
import { dlopen, type FFIFunction, read } from "bun:ffi";
import { type ErrnoCode, errnoName } from "./errno.ts";

/** A failed system call: `code` is the errno's name ("ENOENT"), see errno.ts. */
export class SyscallError extends Error {
  override readonly name = "SyscallError";
  readonly code: ErrnoCode;

  constructor(
    readonly syscall: string,
    readonly errno: number,
    detail?: string,
  ) {
    const code = errnoName(errno);
    super(`${syscall}${detail === undefined ? "" : ` ${detail}`}: ${code}`);
    this.code = code;
  }
}

/** Opens libc for the given functions. Call it once per file, at the top. */
export function libc<Fns extends Record<string, FFIFunction>>(functions: Fns) {
  return dlopen("libc.so.6", functions).symbols;
}

const location = libc({ __errno_location: { args: [], returns: "ptr" } }).__errno_location();

/**
 * The main thread's errno, of the call that has just failed. Nearly always: a garbage collection that comes
 * in between looks into /proc, and where that is not mounted (a changed root) leaves ENOENT. So it is right
 * in a message, and nothing there may depend on it.
 */
export function errno(): number {
  return location === null ? 0 : read.i32(location, 0);
}

/** Returns `result`, or throws a `SyscallError` when it is negative. */
export function check(result: number | bigint, syscall: string, detail?: string): number {
  const value = Number(result);
  if (value < 0) throw new SyscallError(syscall, errno(), detail);
  return value;
}

/** Zeroed memory of `bytes` that never moves. Keep a reference until the call has returned. */
export function buffer(bytes: number): Uint8Array {
  return new Uint8Array(new ArrayBuffer(bytes));
}

/** A NUL-terminated copy of a path or an option; refuses an embedded NUL. */
export function cstring(value: string | Uint8Array): Uint8Array {
  const bytes = typeof value === "string" ? new TextEncoder().encode(value) : value;
  if (bytes.includes(0)) throw new TypeError("a NUL byte inside a C string");
  const copy = buffer(bytes.length + 1);
  copy.set(bytes);
  return copy;
}
