/** Compares a layer's directory with its list of files, in memory that does not grow with the layer. */
import { SQLiteError } from "bun:sqlite";
import { closeSync, constants, lstatSync, openSync, readlinkSync, readSync } from "node:fs";
import { crc32 } from "node:zlib";
import { namesIn } from "../linux/directory.ts";
import { codeOf } from "../linux/errno.ts";
import { getXattr } from "../linux/file.ts";
import { type ExpectedFile, IndexTable } from "./index-table.ts";
import { type IndexRecord, readIndex } from "./layer-index.ts";

/** So many are told; one is enough to know. */
const PROBLEM_LIMIT = 10;
const { O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;
const CHUNK = Buffer.alloc(256 * 1024);

/**
 * What is wrong with a layer, at most ten problems. `fast` looks at names, types, owners, modes and
 * sizes; else every file's content is read too. A layer without a readable index has that problem.
 * Synchronous, of any length, and it changes the working directory: for a process of its own. Both paths
 * are absolute. Throws what has nothing to do with the layer.
 */
export function checkLayer(directory: string, indexFile: string, fast: boolean): string[] {
  const table = new IndexTable();
  try {
    try {
      table.read(readIndex(indexFile));
    } catch (error) {
      if (error instanceof SQLiteError) throw error;
      return ["its list of files is missing or damaged"];
    }
    return new Check(directory, fast, table).run();
  } finally {
    table.close();
  }
}

class Check {
  readonly #problems: string[] = [];
  /** Directories that are not there: what was in them is not told again. */
  readonly #gone: string[] = [];

  constructor(
    readonly root: string,
    readonly fast: boolean,
    readonly table: IndexTable,
  ) {}

  run(): string[] {
    if (!this.#enter()) return this.#problems;
    for (const file of this.table) {
      if (this.#problems.length >= PROBLEM_LIMIT) break;
      if (!this.#gone.some((directory) => isBelow(file.path, directory))) this.#look(file);
    }
    return this.#problems;
  }

  /** From here on paths are relative: with that of the layer before them the longest would be too long. */
  #enter(): boolean {
    try {
      const isDirectory = lstatSync(this.root).isDirectory();
      if (isDirectory) process.chdir(this.root);
      else this.#report("", "is no directory");
      return isDirectory;
    } catch (error) {
      this.#reportFailure("", error);
      return false;
    }
  }

  #reportFailure(name: string, error: unknown): void {
    const code = codeOf(error);
    this.#report(name, code === "ENOENT" ? "is missing" : `cannot be read: ${code}`);
  }

  #report(name: string, what: string): void {
    const shown = JSON.stringify(Buffer.from(name, "latin1").toString("utf8").slice(0, 200));
    if (this.#problems.length < PROBLEM_LIMIT) this.#problems.push(`${shown}: ${what}`);
  }

  #look({ path: name, record, xattrs }: ExpectedFile): void {
    const path = Buffer.from(name === "" ? "." : name, "latin1");
    const mayHoldFiles = record === undefined || record.kind === "directory";
    try {
      if (record !== undefined) this.#compare(name, path, record);
      this.#compareXattrs(name, path, xattrs);
      if (!mayHoldFiles) return;
      if (lstatSync(path).isDirectory()) this.#lookForMore(name, path);
      else this.#gone.push(name);
    } catch (error) {
      if (error instanceof SQLiteError) throw error;
      this.#reportFailure(name, error);
      if (mayHoldFiles) this.#gone.push(name);
    }
  }

  #lookForMore(directory: string, path: Buffer): void {
    for (const bytes of namesIn(path)) {
      const name = bytes.toString("latin1");
      const whole = directory === "" ? name : `${directory}/${name}`;
      if (!this.table.has(whole)) this.#report(whole, "is no part of the layer");
      if (this.#problems.length >= PROBLEM_LIMIT) return;
    }
  }

  #compareXattrs(name: string, path: Buffer, xattrs: Readonly<Record<string, number>>): void {
    for (const [key, crc] of Object.entries(xattrs)) {
      const value = getXattr(path, key);
      if (value === undefined) this.#report(name, `has lost its attribute ${key}`);
      else if (crc32(value) !== crc) this.#report(name, `has another attribute ${key}`);
    }
  }

  #compare(name: string, path: Buffer, record: IndexRecord): void {
    const stat = lstatSync(path);
    const wrong = (what: string) => this.#report(name, what);
    if (record.kind === "hardlink") {
      // The list does not know to what.
      if (stat.isDirectory()) wrong("is no longer the link that it was");
      return;
    }
    if (record.kind === "special") {
      const type = stat.mode & constants.S_IFMT;
      if (type !== record.type || stat.rdev !== record.device) wrong("is something else");
      return;
    }
    if ((stat.mode & constants.S_IFMT) !== TYPES[record.kind]) {
      wrong(`is no ${record.kind}`);
      return;
    }
    if (stat.uid !== record.uid || stat.gid !== record.gid) wrong("has another owner");
    if (record.kind === "symlink") {
      const target = readlinkSync(path, { encoding: "buffer" });
      if (target.toString("latin1") !== record.target) wrong("leads elsewhere");
      return;
    }
    if ((stat.mode & 0o7777) !== record.mode) wrong("has another mode");
    if (record.kind === "directory") return;
    if (stat.size !== record.size) wrong(`has ${stat.size} bytes, not ${record.size}`);
    else if (!this.fast && checksum(path) !== record.crc) wrong("has other content");
  }
}

const TYPES = {
  directory: constants.S_IFDIR,
  file: constants.S_IFREG,
  symlink: constants.S_IFLNK,
};

function isBelow(path: string, directory: string): boolean {
  return directory === "" ? path !== "" : path.startsWith(`${directory}/`);
}

/** Not waiting for anybody, should it not be the file any more that it was a moment ago. */
function checksum(path: Buffer): number {
  const fd = openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  try {
    let crc = 0;
    for (;;) {
      const count = readSync(fd, CHUNK, 0, CHUNK.length, null);
      if (count === 0) return crc;
      crc = crc32(CHUNK.subarray(0, count), crc);
    }
  } finally {
    closeSync(fd);
  }
}
