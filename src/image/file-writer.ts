/** Writes the regular files of a layer, one after the other: where unpacking spends its time. */
import { closeSync, fchmodSync, fchownSync, ftruncateSync, writeSync } from "node:fs";
import { crc32 } from "node:zlib";
import { createFile, setTimesOf, statusOf } from "../linux/new-file.ts";
import type { IndexRecord } from "../storage/layer-index.ts";
import { crcWithZeros } from "./crc-zeros.ts";
import { setXattrs } from "./entry-xattrs.ts";
import type { TarEntry } from "./tar.ts";

const BLOCK_BYTES = 512;
const PERMISSIONS = 0o777;

interface OpenFile {
  fd: number;
  path: Buffer;
  entry: TarEntry;
}

export class FileWriter {
  #file: OpenFile | undefined;
  #crc = 0;
  #size = 0;
  #endsInHole = false;

  /** Makes the file, which must not exist. */
  open(path: Buffer, entry: TarEntry): void {
    this.#file = { fd: createFile(path, entry.mode & PERMISSIONS), path, entry };
    this.#crc = 0;
    this.#size = 0;
    this.#endsInHole = false;
  }

  write(chunk: Buffer): void {
    if (this.#file === undefined) return;
    this.#crc = crc32(chunk, this.#crc);
    for (let offset = 0; offset < chunk.length; ) {
      const position = this.#size + offset;
      offset += writeSync(this.#file.fd, chunk, offset, chunk.length - offset, position);
    }
    this.#size += chunk.length;
    this.#endsInHole = false;
  }

  /** So many zeros, which take no place on disk. */
  hole(bytes: number): void {
    if (this.#file === undefined) return;
    this.#crc = crcWithZeros(this.#crc, bytes);
    this.#size += bytes;
    this.#endsInHole = true;
  }

  /** On disk, of the file that is open. */
  openBytes(): number {
    return this.#file === undefined ? 0 : statusOf(this.#file.fd).blocks * BLOCK_BYTES;
  }

  /** Ends the file that is open; returns what it is now, and its bytes on disk. */
  close(): { record: IndexRecord; bytes: number } {
    const file = this.#file;
    if (file === undefined) throw new Error("no file is open");
    this.#file = undefined;
    try {
      if (this.#endsInHole) ftruncateSync(file.fd, this.#size);
      const { mode, bytes } = finish(file);
      const { uid, gid } = file.entry;
      return { record: { kind: "file", mode, uid, gid, size: this.#size, crc: this.#crc }, bytes };
    } finally {
      closeSync(file.fd);
    }
  }
}

/** Only what is not yet as the entry says is changed: mostly nothing, and each change costs. */
function finish({ fd, path, entry }: OpenFile): { mode: number; bytes: number } {
  let status = statusOf(fd);
  const owned = status.uid === entry.uid && status.gid === entry.gid;
  if (!owned) fchownSync(fd, entry.uid, entry.gid);
  // After the owner, whose change takes setuid away.
  if (!owned || status.mode !== entry.mode) fchmodSync(fd, entry.mode);
  setXattrs(path, entry);
  setTimesOf(fd, entry.atime, entry.mtime);
  // An ACL among the attributes may have changed the mode.
  if (!owned || status.mode !== entry.mode || entry.xattrs.size > 0) status = statusOf(fd);
  return { mode: status.mode, bytes: status.blocks * BLOCK_BYTES };
}
