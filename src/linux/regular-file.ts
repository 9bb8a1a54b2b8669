/**
 * Reads files whose paths come from a request or from an administrator's file. Only a regular file is
 * opened: a FIFO would hold up who opens it, and a device may act (a watchdog starts). What the kernel
 * makes up and waits with (/proc/kmsg) fails with EAGAIN. Errors are of node:fs' form.
 */
import { closeSync, constants, fstatSync, openSync, readSync, type Stats } from "node:fs";
import { open } from "node:fs/promises";
import { O_PATH } from "./open-flags.ts";

const READ = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;
/** More than any file of configuration or certificates has. */
const LIMIT_BYTES = 4 * 1024 * 1024;

/**
 * The whole content of a regular file; symlinks are followed.
 *
 * @throws Error ENOENT and so on; EINVAL: not a regular file; EFBIG: more than `limitBytes`.
 */
export function readRegularFile(path: string, limitBytes = LIMIT_BYTES): Buffer {
  const handle = openSync(path, O_PATH);
  try {
    const bytes = Buffer.alloc(roomFor(fstatSync(handle), path, limitBytes));
    const file = openSync(procPath(handle), READ);
    try {
      let length = 0;
      while (length < bytes.length) {
        const count = readSync(file, bytes, length, bytes.length - length, null);
        if (count === 0) return bytes.subarray(0, length);
        length += count;
      }
    } finally {
      closeSync(file);
    }
    throw tooLarge(path, limitBytes);
  } finally {
    closeSync(handle);
  }
}

/** As `readRegularFile`, for paths of a request: a file system that does not answer holds up a thread only. */
export async function loadRegularFile(path: string, limitBytes = LIMIT_BYTES): Promise<Buffer> {
  await using handle = await open(path, O_PATH);
  const bytes = Buffer.alloc(roomFor(await handle.stat(), path, limitBytes));
  await using file = await open(procPath(handle.fd), READ);
  let length = 0;
  while (length < bytes.length) {
    const { bytesRead } = await file.read(bytes, length, bytes.length - length, null);
    if (bytesRead === 0) return bytes.subarray(0, length);
    length += bytesRead;
  }
  throw tooLarge(path, limitBytes);
}

/** Size of the buffer: one byte more than there should be, to notice more. Files of /proc say 0. */
function roomFor(stats: Stats, path: string, limitBytes: number): number {
  if (!stats.isFile()) throw failure("EINVAL", "not a regular file", "open", path);
  if (stats.size > limitBytes) throw tooLarge(path, limitBytes);
  return (stats.size || limitBytes) + 1;
}

function tooLarge(path: string, limitBytes: number): Error {
  return failure("EFBIG", `larger than ${limitBytes} bytes`, "read", path);
}

function failure(code: string, what: string, syscall: string, path: string): Error {
  return Object.assign(new Error(`${code}: ${what}, ${syscall} '${path}'`), { code });
}

function procPath(descriptor: number): string {
  return `/proc/self/fd/${descriptor}`;
}
