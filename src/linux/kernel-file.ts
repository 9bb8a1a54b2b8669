/** Reads and writes of kernel files (cgroupfs, /proc), with failures as `SyscallError`. */
import { closeSync, constants, openSync, readSync, writeSync } from "node:fs";
import { codeOf, type ErrnoName, errnoOf } from "./errno.ts";
import { SyscallError } from "./libc.ts";

/** Runs one file operation; a failure becomes a `SyscallError`. */
export function attempt<T>(syscall: string, path: string, operation: () => T): T {
  try {
    return operation();
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === undefined) throw error;
    throw new SyscallError(syscall, errno, path);
  }
}

/** Like `attempt`, but a failure with one of `codes` gives undefined. */
export function attemptUnless<T>(
  codes: readonly ErrnoName[],
  syscall: string,
  path: string,
  operation: () => T,
): T | undefined {
  try {
    return attempt(syscall, path, operation);
  } catch (error) {
    if (codes.some((code) => code === codeOf(error))) return undefined;
    throw error;
  }
}

/** Writes a kernel file. Never creates it: O_CREAT on cgroupfs hides ENOENT behind EPERM. */
export function writeKernelFile(path: string, value: string): void {
  attempt("write", path, () => {
    const fd = openSync(path, constants.O_WRONLY);
    try {
      writeSync(fd, value);
    } finally {
      closeSync(fd);
    }
  });
}

/** Of a file whose length a container decides (cgroup.procs, net/dev): some 35,000 processes. */
const TEXT_LIMIT_BYTES = 256 * 1024;

/** The first bytes of a kernel file, as whole lines. */
function readStart(path: string): string {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    let bytes = Buffer.allocUnsafe(4096);
    for (let length = 0; ; ) {
      const count = readSync(fd, bytes, length, bytes.length - length, null);
      length += count;
      if (count === 0) return bytes.toString("utf8", 0, length);
      if (length < bytes.length) continue;
      if (length >= TEXT_LIMIT_BYTES) return bytes.toString("utf8", 0, bytes.lastIndexOf("\n") + 1);
      bytes = Buffer.concat([bytes], 4 * length);
    }
  } finally {
    closeSync(fd);
  }
}

/**
 * The text of a kernel file; undefined when the file or what it describes is gone. Of a very long one its first
 * lines: whoever looks for an end (of a cgroup's processes) looks again.
 */
export function readKernelFile(path: string): string | undefined {
  // ENODEV: the cgroup went away between open and read. EOPNOTSUPP: a threaded cgroup's procs.
  return attemptUnless(["ENOENT", "ENODEV", "EOPNOTSUPP"], "read", path, () => readStart(path));
}
