/** Names in a directory, however many: node:fs reads them all before it gives the first one. */
import { closeSync, constants, openSync } from "node:fs";
import { buffer, check, libc } from "./libc.ts";

const c = libc({ getdents64: { args: ["i32", "ptr", "u64"], returns: "i64" } });

const CHUNK_BYTES = 64 * 1024;
/** In struct linux_dirent64 of getdents64(2). */
const RECORD_LENGTH_OFFSET = 16;
const NAME_OFFSET = 19;

/** The names, as bytes, without "." and ".."; never through a symlink. Throws an error with a code. */
export function* namesIn(path: string | Buffer): Generator<Buffer, void, void> {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  try {
    const chunk = buffer(CHUNK_BYTES);
    const bytes = Buffer.from(chunk.buffer);
    for (;;) {
      const length = check(c.getdents64(fd, chunk, chunk.length), "getdents64");
      if (length === 0) return;
      for (let at = 0; at < length; at += bytes.readUInt16LE(at + RECORD_LENGTH_OFFSET)) {
        const start = at + NAME_OFFSET;
        const name = Buffer.from(bytes.subarray(start, bytes.indexOf(0, start)));
        if (!isDot(name)) yield name;
      }
    }
  } finally {
    closeSync(fd);
  }
}

const DOT = 0x2e;

function isDot(name: Buffer): boolean {
  return name[0] === DOT && (name.length === 1 || (name.length === 2 && name[1] === DOT));
}
