/** The files of an image archive: a directory, or a tar that is looked up in place. */
import { closeSync, constants, fstatSync, openSync, readSync, statSync } from "node:fs";
import { mkdir, open, rm } from "node:fs/promises";
import { dirname, join, normalize } from "node:path";
import { CribError, messageOf } from "../error.ts";
import { openInRoot } from "../linux/file.ts";
import { createDecoder, DecodeError, detectCompression } from "./decoder.ts";
import { splitPath } from "./layer-path.ts";
import { TarParser } from "./tar.ts";
import { TarError } from "./tar-error.ts";
import { BLOCK_BYTES } from "./tar-header.ts";

const CHUNK_BYTES = 1024 * 1024;
const ENTRY_LIMIT = 100_000;
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

/**
 * Opens an archive; a compressed one is unpacked to a file in `scratch` first.
 *
 * @throws CribError NotFound: there is nothing; FailedPrecondition: it is no archive; ResourceExhausted.
 */
export async function openArchiveFiles(path: string, scratch: string): Promise<ArchiveFiles> {
  try {
    const stat = statSync(path);
    if (stat.isDirectory()) return new DirectoryFiles(path);
    if (!stat.isFile()) throw new CribError("FailedPrecondition", `${path}: it is no file`);
    const fd = openSync(path, constants.O_RDONLY);
    const magic = Buffer.alloc(4);
    const length = readSync(fd, magic, 0, magic.length, 0);
    if (detectCompression(magic.subarray(0, length)) === "none") return makeTarFiles(fd);
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
  if (error instanceof CribError) return error;
  const code = (error as { code?: unknown }).code;
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
      const code = (error as { code?: unknown }).code;
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
function makeTarFiles(fd: number, cleanUp = async () => {}): ArchiveFiles {
  try {
    const entries = readEntries(fd);
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

function readEntries(fd: number): Map<string, Entry> {
  const entries = new Map<string, Entry>();
  const { size } = fstatSync(fd);
  let position = 0;
  const parser = new TarParser({
    entry(entry) {
      const name = splitPath(entry.name).join("/");
      if (entry.type === "file") entries.set(name, { offset: position, size: entry.size });
      else if (entry.type === "hardlink")
        entries.set(name, { link: entry.linkName.toString("latin1") });
      else if (entry.type === "symlink") {
        entries.set(name, { link: join(dirname(name), entry.linkName.toString("latin1")) });
      }
      if (entries.size > ENTRY_LIMIT) throw new TarError(`more than ${ENTRY_LIMIT} files`);
    },
    data() {},
    end() {},
  });
  const block = Buffer.alloc(BLOCK_BYTES);
  while (!parser.ended && readSync(fd, block, 0, BLOCK_BYTES, position) === BLOCK_BYTES) {
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

async function decompressed(fd: number, scratch: string): Promise<ArchiveFiles> {
  await mkdir(scratch, { recursive: true, mode: 0o700 });
  const path = join(scratch, crypto.randomUUID());
  const cleanUp = () => rm(path, { force: true });
  try {
    const output = await open(path, "wx", 0o600);
    try {
      await decompress(fd, output);
    } finally {
      await output.close();
    }
    return makeTarFiles(openSync(path, constants.O_RDONLY), cleanUp);
  } catch (error) {
    await cleanUp();
    throw error;
  }
}

async function decompress(
  fd: number,
  output: { write(bytes: Uint8Array): Promise<unknown> },
): Promise<void> {
  let pending: Buffer[] = [];
  const decoder = createDecoder((chunk) => pending.push(Buffer.from(chunk)));
  const flush = async () => {
    const pieces = pending;
    pending = [];
    for (const piece of pieces) await output.write(piece);
  };
  const input = Buffer.alloc(STEP_BYTES);
  for (let position = 0; ; ) {
    const count = readSync(fd, input, 0, input.length, position);
    if (count === 0) break;
    position += count;
    decoder.write(input.subarray(0, count));
    await flush();
  }
  decoder.end();
  await flush();
}

/** Compressed bytes between two turns of the event loop; they may become a thousand times as many. */
const STEP_BYTES = 16 * 1024;

/** The bytes of a place, from `skip` on. */
export async function* readPlace(
  { fd, offset, size }: Place,
  skip: number,
): AsyncGenerator<Uint8Array, void, void> {
  for (let position = skip; position < size; ) {
    const chunk = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, size - position));
    const count = readSync(fd, chunk, 0, chunk.length, offset + position);
    if (count === 0) return;
    position += count;
    yield chunk.subarray(0, count);
  }
}
