/**
 * The directories of a layer while it is unpacked, as bytes: their times can be set, and their size be
 * known, only when they are full. An archive may hold millions of them.
 */
import type { FileTime } from "../linux/file.ts";
import { LimitError } from "./tar-error.ts";

/** Half a million directories with names of usual length. */
const LIMIT_BYTES = 48 * 1024 * 1024;
const FIRST_BYTES = 16 * 1024;
const TIME_BYTES = 12;
const HEADER_BYTES = 3 + 2 * TIME_BYTES;

export interface DirectoryTimes {
  atime: FileTime;
  mtime: FileTime;
}

export class DirectoryList {
  readonly #limitBytes: number;
  #bytes = Buffer.alloc(FIRST_BYTES);
  #length = 0;
  #count = 0;

  constructor(limitBytes = LIMIT_BYTES) {
    this.#limitBytes = limitBytes;
  }

  /** Adds a directory, without times when the archive does not mention it. Throws a `LimitError`. */
  add(path: Uint8Array, times?: DirectoryTimes): void {
    const end = this.#length + HEADER_BYTES + path.length;
    if (end > this.#limitBytes) {
      throw new LimitError(`more than ${this.#limitBytes} bytes of names of directories`);
    }
    if (end > this.#bytes.length) this.#grow(end);
    const bytes = this.#bytes;
    bytes.writeUInt16LE(path.length, this.#length);
    bytes[this.#length + 2] = times === undefined ? 0 : 1;
    if (times !== undefined) {
      writeTime(bytes, times.atime, this.#length + 3);
      writeTime(bytes, times.mtime, this.#length + 3 + TIME_BYTES);
    }
    bytes.set(path, this.#length + HEADER_BYTES);
    this.#length = end;
    this.#count += 1;
  }

  /** How many they are. */
  get count(): number {
    return this.#count;
  }

  /** All of them in the order of their coming; paths are only lent. */
  *[Symbol.iterator](): Generator<{ path: Buffer; times: DirectoryTimes | undefined }> {
    const bytes = this.#bytes;
    for (let at = 0; at < this.#length; ) {
      const start = at + HEADER_BYTES;
      const end = start + bytes.readUInt16LE(at);
      const times =
        bytes[at + 2] === 0
          ? undefined
          : { atime: readTime(bytes, at + 3), mtime: readTime(bytes, at + 3 + TIME_BYTES) };
      yield { path: bytes.subarray(start, end), times };
      at = end;
    }
  }

  #grow(needed: number): void {
    const size = Math.min(Math.max(2 * this.#bytes.length, needed), this.#limitBytes);
    const larger = Buffer.alloc(size);
    this.#bytes.copy(larger, 0, 0, this.#length);
    this.#bytes = larger;
  }
}

function writeTime(bytes: Buffer, { seconds, nanoseconds }: FileTime, offset: number): void {
  bytes.writeDoubleLE(seconds, offset);
  bytes.writeUInt32LE(nanoseconds, offset + 8);
}

function readTime(bytes: Buffer, offset: number): FileTime {
  return { seconds: bytes.readDoubleLE(offset), nanoseconds: bytes.readUInt32LE(offset + 8) };
}
