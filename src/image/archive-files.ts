/** The files of an image archive: a directory, or a tar that is looked up in place. */
import { closeSync, constants, fstatSync, openSync, read, readSync, statSync } from "node:fs";
import { type FileHandle, mkdir, open, rm, statfs } from "node:fs/promises";
import { dirname, join, normalize } from "node:path";
import { CribError, messageOf } from "../error.ts";
import { codeOf } from "../linux/errno.ts";
import { openInRoot } from "../linux/file.ts";
import { createPieceDecoder, DecodeError, detectCompression } from "./decoder.ts";
import { quote, splitPath } from "./layer-path.ts";
import { TarParser } from "./tar.ts";
import { LimitError, TarError } from "./tar-error.ts";
import { BLOCK_BYTES } from "./tar-header.ts";

const CHUNK_BYTES = 1024 * 1024;
const ENTRY_LIMIT = 100_000;
/** What they are called together, in memory: an archive of images has a few hundred short names. */
const NAMES_LIMIT_BYTES = 16 * 1024 * 1024;
const LINK_LIMIT = 8;

/** A place in an open file. */
interface Place {
  fd: number;
  offset: number;
  size: number;
}

export interface ArchiveFiles {
  /** A file of this name; undefined when there is none. The caller calls `done` in the end. */
  find(name: string): (Place & { done(): void }) | undefined;
  close(): Promise<void>;
}

/** Where an archive is decompressed, and how large it may become. */
export interface ScratchOptions {
  directory: string;
  maxBytes: number;
}

/**
 * Opens an archive; a compressed one is unpacked to a file in `scratch` first.
 *
 * @throws CribError NotFound: there is nothing; FailedPrecondition: it is no archive; ResourceExhausted.
 */
export async function openArchiveFiles(
  path: string,
  scratch: ScratchOptions,
): Promise<ArchiveFiles> {
  try {
    const stat = statSync(path);
    if (stat.isDirectory()) return new DirectoryFiles(path);
    if (!stat.isFile()) throw new CribError("FailedPrecondition", `${path}: it is no file`);
    const fd = openSync(path, constants.O_RDONLY);
    const magic = Buffer.alloc(4);
    const length = readSync(fd, magic, 0, magic.length, 0);
    if (detectCompression(magic.subarray(0, length)) === "none") return await makeTarFiles(fd);
    try {
      return await decompressed(fd, scratch);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw explain(error, path);
  }
}

function explain(error: unknown, path: string): unknown {
  if (error instanceof CribError) {
    const named = error.message.includes(path);
    return named ? error : new CribError(error.code, `${path}: ${error.message}`);
  }
  const code = codeOf(error);
  const wrong = error instanceof TarError || error instanceof DecodeError;
  if (wrong) return new CribError("FailedPrecondition", `${path}: ${error.message}`);
  if (code === "ENOENT") return new CribError("NotFound", `${path}: there is no such file`);
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new CribError("ResourceExhausted", `${path}: ${messageOf(error)}`);
  }
  return error;
}

class DirectoryFiles implements ArchiveFiles {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  find(name: string) {
    let fd: number;
    try {
      // Links in it must not lead to the host's files.
      fd = openInRoot(this.#directory, name, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      const code = codeOf(error);
      if (code === "ENOENT" || code === "ENOTDIR") return undefined;
      throw error;
    }
    const stat = fstatSync(fd);
    if (stat.isFile()) return { fd, offset: 0, size: stat.size, done: () => closeSync(fd) };
    closeSync(fd);
    return undefined;
  }

  async close() {}
}

type Entry = { offset: number; size: number } | { link: string };

/** Reads the headers only. Throws `TarError`; then the file is closed. */
async function makeTarFiles(fd: number, cleanUp = async () => {}): Promise<ArchiveFiles> {
  try {
    const entries = await readEntries(fd);
    return {
      find(name) {
        const entry = follow(entries, normalize(name));
        return entry && { fd, ...entry, done() {} };
      },
      async close() {
        closeSync(fd);
        await cleanUp();
      },
    };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

async function readEntries(fd: number): Promise<Map<string, Entry>> {
  const entries = new Map<string, Entry>();
  const { size } = fstatSync(fd);
  let position = 0;
  let [count, nameBytes] = [0, 0];
  const parser = new TarParser({
    entry(entry) {
      const name = splitPath(entry.name).join("/");
      // Its bytes are read where they are.
      if (entry.isSparse)
        throw new TarError(`${quote(entry.name)}: a sparse file in an archive of images`);
      if (entry.type === "file") entries.set(name, { offset: position, size: entry.size });
      else if (entry.type === "hardlink")
        entries.set(name, { link: entry.linkName.toString("latin1") });
      else if (entry.type === "symlink") {
        entries.set(name, { link: join(dirname(name), entry.linkName.toString("latin1")) });
      }
      count += 1;
      nameBytes += entry.name.length + entry.linkName.length;
      if (count > ENTRY_LIMIT) throw new LimitError(`more than ${ENTRY_LIMIT} entries`);
      if (nameBytes > NAMES_LIMIT_BYTES) {
        throw new LimitError(`more than ${NAMES_LIMIT_BYTES} bytes of names`);
      }
    },
    data() {},
    hole() {},
    end() {},
  });
  const block = Buffer.alloc(BLOCK_BYTES);
  while (!parser.ended && (await readAt(fd, block, position)) === BLOCK_BYTES) {
    position += BLOCK_BYTES;
    parser.push(block);
    position += parser.skipData();
  }
  if (position > size) throw new TarError("the archive is cut off");
  parser.finish();
  return entries;
}

/** `docker save` links layers that are there twice. */
function follow(entries: ReadonlyMap<string, Entry>, name: string) {
  let entry = entries.get(name);
  for (let hop = 0; entry !== undefined && "link" in entry; hop++) {
    if (hop === LINK_LIMIT) return undefined;
    entry = entries.get(normalize(entry.link));
  }
  return entry;
}

async function decompressed(
  fd: number,
  { directory, maxBytes }: ScratchOptions,
): Promise<ArchiveFiles> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, crypto.randomUUID());
  const cleanUp = () => rm(path, { force: true });
  try {
    const output = await open(path, "wx", 0o600);
    try {
      await decompress(fd, output, new Room(directory, maxBytes));
    } finally {
      await output.close();
    }
    return await makeTarFiles(openSync(path, constants.O_RDONLY), cleanUp);
  } catch (error) {
    await cleanUp();
    throw error;
  }
}

/** Piece by piece: what a few bytes become may be as large as memory, or as the disk. */
async function decompress(fd: number, output: FileHandle, room: Room): Promise<void> {
  const decoder = createPieceDecoder();
  const write = async (pieces: Iterable<Buffer>) => {
    for (const piece of pieces) {
      await room.take(piece.length);
      await output.write(piece);
    }
  };
  const input = Buffer.alloc(CHUNK_BYTES);
  for (let position = 0; ; ) {
    const count = await readAt(fd, input, position);
    if (count === 0) break;
    position += count;
    await write(decoder.write(input.subarray(0, count)));
  }
  await write(decoder.end());
}

/** Part of the file system that stays free for the node, and bytes between two looks at it. */
const RESERVED_PART = 0.05;
const LOOK_BYTES = 4 * 1024 * 1024;

/** How much may still be written in a directory. */
class Room {
  readonly #directory: string;
  readonly #maxBytes: number;
  #taken = 0;
  #lookAt = 0;

  constructor(directory: string, maxBytes: number) {
    this.#directory = directory;
    this.#maxBytes = maxBytes;
  }

  /** Throws a `CribError` ResourceExhausted when that is too much. */
  async take(bytes: number): Promise<void> {
    this.#taken += bytes;
    const no = (why: string) => new CribError("ResourceExhausted", `decompressed it takes ${why}`);
    if (this.#taken > this.#maxBytes) {
      throw no(`more than ${this.#maxBytes} bytes (image.max_layer_bytes)`);
    }
    if (this.#taken < this.#lookAt) return;
    this.#lookAt = this.#taken + LOOK_BYTES;
    const { bavail, blocks } = await statfs(this.#directory);
    if (bavail < blocks * RESERVED_PART) throw no(`the last of the disk below ${this.#directory}`);
  }
}

/** read(2) at a position, into the whole buffer if there is so much; not on the daemon's own thread. */
function readAt(fd: number, into: Buffer, position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    read(fd, into, 0, into.length, position, (error, count) => {
      if (error) reject(error);
      else resolve(count);
    });
  });
}

/** The bytes of a place, from `skip` on. */
export async function* readPlace(
  { fd, offset, size }: Place,
  skip: number,
): AsyncGenerator<Uint8Array, void, void> {
  for (let position = skip; position < size; ) {
    const chunk = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, size - position));
    const count = await readAt(fd, chunk, offset + position);
    if (count === 0) return;
    position += count;
    yield chunk.subarray(0, count);
  }
}
