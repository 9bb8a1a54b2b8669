/** Compares a layer's directory with its index. */
import { constants } from "node:fs";
import { lstat, open, readdir, readlink } from "node:fs/promises";
import { crc32 } from "node:zlib";
import { getXattr } from "../linux/file.ts";
import { type IndexNode, type IndexRecord, readIndex } from "./layer-index.ts";

const CHUNK_BYTES = 256 * 1024;
/** So many are told; one is enough to know. */
const PROBLEM_LIMIT = 10;
const SLASH = Buffer.from("/");

/**
 * What is wrong with a layer, at most ten problems. `fast` looks at names, types, owners, modes and
 * sizes; else every file's content is read too. A layer without a readable index has that problem.
 */
export async function checkLayer(
  directory: string,
  indexFile: string,
  fast: boolean,
): Promise<string[]> {
  const problems: string[] = [];
  let root: IndexNode;
  try {
    root = await readIndex(indexFile);
  } catch {
    return ["its list of files is missing or damaged"];
  }
  const check = new Check(Buffer.from(directory), fast, problems);
  await check.node(root, "");
  return problems;
}

class Check {
  constructor(
    readonly root: Buffer,
    readonly fast: boolean,
    readonly problems: string[],
  ) {}

  #path(name: string): Buffer {
    return name === "" ? this.root : Buffer.concat([this.root, SLASH, Buffer.from(name, "latin1")]);
  }

  #report(name: string, what: string): void {
    const shown = JSON.stringify(Buffer.from(name, "latin1").toString("utf8").slice(0, 200));
    if (this.problems.length < PROBLEM_LIMIT) this.problems.push(`${shown}: ${what}`);
  }

  /** The file of this node, and all below it. */
  async node(node: IndexNode, name: string): Promise<void> {
    if (this.problems.length >= PROBLEM_LIMIT) return;
    const path = this.#path(name);
    try {
      if (node.record !== undefined) await this.#compare(name, path, node.record);
      this.#compareXattrs(name, path, node.xattrs ?? {});
      if (node.children.size > 0 || node.record?.kind === "directory" || name === "") {
        await this.#children(node, name, path);
      }
    } catch (error) {
      const code = (error as { code?: unknown }).code;
      this.#report(name, code === "ENOENT" ? "is missing" : `cannot be read: ${String(code)}`);
    }
  }

  async #children(node: IndexNode, name: string, path: Buffer): Promise<void> {
    const names = await readdir(path, { encoding: "buffer" });
    const there = new Set(names.map((bytes) => bytes.toString("latin1")));
    const below = (child: string) => (name === "" ? child : `${name}/${child}`);
    for (const child of there) {
      if (!node.children.has(child)) this.#report(below(child), "is no part of the layer");
    }
    for (const [child, next] of node.children) await this.node(next, below(child));
  }

  #compareXattrs(name: string, path: Buffer, xattrs: Readonly<Record<string, number>>): void {
    for (const [key, crc] of Object.entries(xattrs)) {
      const value = getXattr(path, key);
      if (value === undefined) this.#report(name, `has lost its attribute ${key}`);
      else if (crc32(value) !== crc) this.#report(name, `has another attribute ${key}`);
    }
  }

  async #compare(name: string, path: Buffer, record: IndexRecord): Promise<void> {
    const stat = await lstat(path);
    const wrong = (what: string) => this.#report(name, what);
    if (record.kind === "hardlink") {
      // Linked through a symlink: the list does not know to what.
      if (stat.isDirectory()) wrong("is no longer the link that it was");
      return;
    }
    if (record.kind === "special") {
      const type = stat.mode & constants.S_IFMT;
      if (type !== record.type || stat.rdev !== record.device) wrong("is something else");
      return;
    }
    const type = {
      directory: constants.S_IFDIR,
      file: constants.S_IFREG,
      symlink: constants.S_IFLNK,
    };
    if ((stat.mode & constants.S_IFMT) !== type[record.kind]) return wrong(`is no ${record.kind}`);
    if (stat.uid !== record.uid || stat.gid !== record.gid) wrong("has another owner");
    if (record.kind === "symlink") {
      const target = await readlink(path, { encoding: "buffer" });
      if (target.toString("latin1") !== record.target) wrong("leads elsewhere");
      return;
    }
    if ((stat.mode & 0o7777) !== record.mode) wrong("has another mode");
    if (record.kind === "directory") return;
    if (stat.size !== record.size) return wrong(`has ${stat.size} bytes, not ${record.size}`);
    if (!this.fast && (await checksum(path)) !== record.crc) wrong("has other content");
  }
}

async function checksum(path: Buffer): Promise<number> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
    let crc = 0;
    for (;;) {
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, null);
      if (bytesRead === 0) return crc;
      crc = crc32(buffer.subarray(0, bytesRead), crc);
    }
  } finally {
    await handle.close();
  }
}
