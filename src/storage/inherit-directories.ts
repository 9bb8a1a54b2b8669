/**
 * Directories that a layer does not mention, but has files in, are those of the layers below: they have the
 * mode, the owner and the extended attributes that they have there. Overlayfs shows them as the upper layer
 * has them, so they are given to it when it is unpacked, and its list of files says so.
 *
 * Times are not: what is put into a directory changes them anyway.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fsyncSync,
  lstatSync,
  openSync,
  type Stats,
  writeSync,
} from "node:fs";
import { crc32 } from "node:zlib";
import { codeOf } from "../linux/errno.ts";
import { getXattr, listXattrs, openInRoot, setXattr, syncFileSystem } from "../linux/file.ts";
import { type ExpectedFile, IndexTable } from "./index-table.ts";
import { indexLine, OPAQUE_XATTR, readIndex, xattrLine } from "./layer-index.ts";

/** Overlayfs's own are no attributes of the directory, and labels are the host's. */
const LEFT_OUT = /^(?:(?:trusted|user)\.overlay\.|security\.selinux$)/;
const PERMISSIONS = 0o7777;
const CACHE_ENTRIES = 10_000;

export interface InheritOptions {
  /** The layer's directory, absolute, and its list of files, which is added to. */
  layer: string;
  indexFile: string;
  /** Directories of the layers below, the nearest first. */
  below: readonly string[];
}

/**
 * Synchronous, of any length: for a process of its own. $SQLITE_TMPDIR takes what does not fit into memory.
 * All is on disk when it returns.
 */
export function inheritDirectories({ layer, indexFile, below }: InheritOptions): void {
  const table = new IndexTable();
  const index = openSync(indexFile, constants.O_WRONLY | constants.O_APPEND);
  try {
    table.read(readIndex(indexFile));
    const lower = new LowerDirectories(layer, below);
    for (const file of table) {
      const source = isImplied(file) ? lower.find(file.path) : undefined;
      if (source !== undefined) writeSync(index, copyAttributes(source, layer, file.path));
    }
    syncFileSystem(layer);
    fsyncSync(index);
  } finally {
    closeSync(index);
    table.close();
  }
}

/** Whether two directories have the same mode, owner and attributes, as far as they are inherited. */
export function haveSameAttributes(one: string, other: string): boolean {
  const [a, b] = [one, other].map((path) => {
    const { mode, uid, gid } = lstatSync(path);
    return JSON.stringify([
      mode,
      uid,
      gid,
      xattrsOf(Buffer.from(path)).map(({ name, crc }) => [name, crc]),
    ]);
  });
  return a === b;
}

/** The layer's root has a record only where the archive mentions it. */
function isImplied({ path, record }: ExpectedFile): boolean {
  if (record === undefined) return path === "";
  return record.kind === "directory" && record.implied === true;
}

/** What of the layers below shows through, path by path. */
class LowerDirectories {
  readonly #layer: string;
  readonly #below: readonly string[];
  readonly #known = new Map<string, readonly string[]>();

  constructor(layer: string, below: readonly string[]) {
    this.#layer = layer;
    this.#below = below;
  }

  /** Where the directory is that the layer's own is put over; undefined when there is none. */
  find(path: string): Buffer | undefined {
    const [nearest] = this.#holders(path);
    return nearest === undefined ? undefined : join(nearest, path);
  }

  /**
   * The layers whose directory of this path shows, the nearest first. All above it are directories in each of
   * them, so that no symlink is followed; what is no directory, or opaque, hides those further below.
   */
  #holders(path: string): readonly string[] {
    const known = this.#known.get(path);
    if (known !== undefined) return known;
    const holders: string[] = [];
    for (const lower of path === "" ? this.#below : this.#candidates(path)) {
      const status = statusOf(join(lower, path));
      if (status === undefined) continue;
      if (!status.isDirectory()) break;
      holders.push(lower);
      if (isOpaque(join(lower, path))) break;
    }
    if (this.#known.size >= CACHE_ENTRIES) this.#known.clear();
    this.#known.set(path, holders);
    return holders;
  }

  #candidates(path: string): readonly string[] {
    const parent = path.slice(0, Math.max(0, path.lastIndexOf("/")));
    const own = join(this.#layer, parent);
    return statusOf(own) === undefined || isOpaque(own) ? [] : this.#holders(parent);
  }
}

/** Paths in layers are latin1, which keeps every byte. */
function join(layer: string, path: string): Buffer {
  return Buffer.concat([Buffer.from(`${layer}/`), Buffer.from(path, "latin1")]);
}

function isOpaque(path: Buffer): boolean {
  return Buffer.from(getXattr(path, OPAQUE_XATTR) ?? []).toString() === "y";
}

/** Undefined too for a path that is too long behind the layer's own: the directory stays as it was made. */
function statusOf(path: Buffer): Stats | undefined {
  try {
    return lstatSync(path);
  } catch (error) {
    if (["ENOENT", "ENOTDIR", "ENAMETOOLONG"].includes(codeOf(error))) return undefined;
    throw error;
  }
}

function xattrsOf(path: Buffer) {
  return listXattrs(path)
    .filter((name) => !LEFT_OUT.test(name))
    .sort()
    .flatMap((name) => {
      const value = getXattr(path, name);
      return value === undefined ? [] : [{ name, value, crc: crc32(value) }];
    });
}

/** Returns the lines for the list of files. The layer is believed nothing: nothing outside of it is changed. */
function copyAttributes(source: Buffer, layer: string, path: string): string {
  const { mode, uid, gid } = lstatSync(source);
  const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
  const fd = openInRoot(layer, Buffer.from(path === "" ? "." : path, "latin1"), flags);
  const xattrs: Record<string, number> = {};
  try {
    fchownSync(fd, uid, gid);
    fchmodSync(fd, mode & PERMISSIONS);
    for (const { name, value, crc } of xattrsOf(source)) {
      // The layers are on one file system: what one can hold, the other can.
      setXattr(`/proc/self/fd/${fd}/.`, name, value);
      xattrs[name] = crc;
    }
  } finally {
    closeSync(fd);
  }
  const parts = path.split("/").filter(Boolean);
  const line = indexLine(parts, { kind: "directory", mode: mode & PERMISSIONS, uid, gid });
  return Object.keys(xattrs).length === 0 ? line : line + xattrLine(parts, xattrs);
}
