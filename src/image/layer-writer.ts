/**
 * Writes a layer's entries below "/", which is the layer's directory: the unpack child has changed its
 * root to it. Everything resolves inside that root; nothing that exists is ever opened or followed as
 * a last component. Whiteouts become overlayfs's own marks.
 */
import {
  chmodSync,
  constants,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
} from "node:fs";
import { crc32 } from "node:zlib";
import { mknod, setTimes, setXattr } from "../linux/file.ts";
import { type IndexRecord, indexLine, OPAQUE_XATTR, xattrLine } from "../storage/layer-index.ts";
import { DirectoryList } from "./directory-list.ts";
import { setXattrs, withoutReserved, xattrsThere } from "./entry-xattrs.ts";
import { FileWriter } from "./file-writer.ts";
import { deviceMode, deviceOf, explain, isWhiteout, statusAt, tryMkdir } from "./layer-files.ts";
import {
  type LayerPath,
  LINK_TARGETS,
  type Placement,
  placeEntry,
  quote,
  splitPath,
  toBytes,
} from "./layer-path.ts";
import type { TarEntry, TarSink } from "./tar.ts";
import { LimitError, TarError } from "./tar-error.ts";
import type { UnpackReport } from "./unpack-report.ts";
import { Warnings } from "./warnings.ts";

const { S_IFCHR, S_IFIFO } = constants;
const PARENT_MODE = 0o755;
const PERMISSIONS = 0o7777;
const BLOCK_BYTES = 512;
const SLASH = Buffer.from("/");
/** Looking at so many takes some 20 ms. */
const DIRECTORY_SAMPLE = 10_000;
const OPAQUE_VALUE = Buffer.from("y");

export class LayerWriter implements TarSink {
  readonly #maxEntries: number;
  readonly #maxHoleBytes: number;
  readonly #index: (line: string) => void;
  readonly #writer = new FileWriter();
  #entries = 0;
  #inodes = 0;
  #bytes = 0;
  #holeBytes = 0;
  #implied = 0;
  #hasRoot = false;
  readonly #warnings = new Warnings();
  /** The regular file whose data comes. */
  #file: { path: LayerPath; entry: TarEntry } | undefined;
  readonly #directories = new DirectoryList();

  /** `index` gets a line for each file, see src/storage/layer-index.ts. */
  constructor(options: {
    maxEntries: number;
    /** Zeros of sparse files together, which are in no archive. */
    maxHoleBytes: number;
    index?: (line: string) => void;
  }) {
    this.#maxEntries = options.maxEntries;
    this.#maxHoleBytes = options.maxHoleBytes;
    this.#index = options.index ?? (() => {});
  }

  entry(entry: TarEntry): void {
    this.#entries += 1;
    if (this.#entries > this.#maxEntries) {
      throw new LimitError(`more than ${this.#maxEntries} entries (image.max_layer_entries)`);
    }
    const placement = placeEntry(entry.name);
    if (placement.kind === "ignored") return;
    if (placement.kind === "link target" && entry.type !== "file") return;
    this.#place(
      placement,
      withoutReserved(entry, (name) => {
        this.#warnings.add(`${quote(entry.name)}: attribute ${name} is overlayfs's own, left out`);
      }),
    );
  }

  #place(placement: Exclude<Placement, { kind: "ignored" }>, entry: TarEntry): void {
    try {
      if (placement.kind === "whiteout") this.#whiteout(placement.path);
      else if (placement.kind === "opaque") this.#opaque(placement.path);
      else if (entry.type === "directory") this.#makeDirectory(placement.path, entry);
      else this.#make(placement.path, entry);
    } catch (error) {
      throw explain(error, entry);
    }
  }

  data(chunk: Buffer): void {
    this.#writer.write(chunk);
  }

  hole(bytes: number): void {
    this.#holeBytes += bytes;
    if (this.#holeBytes > this.#maxHoleBytes) {
      throw new LimitError(
        `more than ${this.#maxHoleBytes} bytes of sparse files (image.max_layer_bytes)`,
      );
    }
    this.#writer.hole(bytes);
  }

  end(): void {
    const file = this.#file;
    if (file === undefined) return;
    this.#file = undefined;
    try {
      const done = this.#writer.close();
      this.#bytes += done.bytes;
      this.#note(file.path, done.record);
      this.#noteXattrs(file.path, file.entry);
    } catch (error) {
      throw explain(error, file.entry);
    }
  }

  #note(path: LayerPath, record: IndexRecord | undefined): void {
    this.#index(indexLine(path, record));
  }

  #noteXattrs(path: LayerPath, entry: TarEntry): void {
    const xattrs = entry.xattrs.size === 0 ? undefined : xattrsThere(toBytes(path), entry);
    if (xattrs !== undefined) this.#index(xattrLine(path, xattrs));
  }

  #makeOpaque(path: LayerPath): void {
    setXattr(toBytes(path), OPAQUE_XATTR, OPAQUE_VALUE);
    this.#index(xattrLine(path, { [OPAQUE_XATTR]: crc32(OPAQUE_VALUE) }));
  }

  #noteSpecial(path: LayerPath, bytes: Buffer): void {
    const { mode, rdev } = lstatSync(bytes);
    this.#note(path, { kind: "special", type: mode & constants.S_IFMT, device: rdev });
  }

  /** Sets the directories' times, which their content changes; returns what the layer takes on disk, its root included. */
  finish(): Omit<Extract<UnpackReport, { kind: "done" }>, "kind" | "diffId"> {
    // Their other names stay.
    if (statusAt(toBytes([LINK_TARGETS])) !== undefined) this.#remove([LINK_TARGETS]);
    const root = lstatSync("/");
    // By inode: they may be mentioned again, and a symlink may give one two names.
    const counted = new Set([root.ino]);
    let bytes = this.#bytes + root.blocks * BLOCK_BYTES;
    for (const { path, times } of this.#directories) {
      const stat = statusAt(path);
      if (!stat?.isDirectory()) continue;
      if (times !== undefined) setTimes(path, times.atime, times.mtime);
      if (!counted.has(stat.ino)) bytes += stat.blocks * BLOCK_BYTES;
      counted.add(stat.ino);
    }
    return {
      bytes,
      inodes: this.#inodes + 1,
      implied: this.#implied,
      hasRoot: this.#hasRoot,
      warnings: this.#warnings.list(),
    };
  }

  /**
   * What the layer takes on disk until now, its root included. Directories grow while they are filled: of
   * very many only some are looked at.
   */
  usage(): { bytes: number; inodes: number } {
    const every = Math.ceil(this.#directories.count / DIRECTORY_SAMPLE);
    const counted = new Set([lstatSync("/").ino]);
    let [index, bytes] = [0, 0];
    for (const { path } of this.#directories) {
      if (index++ % every > 0) continue;
      const stat = statusAt(path);
      if (!stat?.isDirectory() || counted.has(stat.ino)) continue;
      counted.add(stat.ino);
      bytes += stat.blocks * BLOCK_BYTES * every;
    }
    bytes += lstatSync("/").blocks * BLOCK_BYTES + this.#bytes + this.#writer.openBytes();
    return { bytes, inodes: this.#inodes + 1 };
  }

  #make(path: LayerPath, entry: TarEntry): void {
    const bytes = toBytes(path);
    if (path.length === 0) {
      this.#warnings.add(`${quote(entry.name)}: a ${entry.type} in place of the root, left out`);
      return;
    }
    switch (entry.type) {
      case "file":
        this.#create(path, () => this.#writer.open(bytes, entry));
        this.#file = { path, entry };
        this.#inodes += 1;
        return;
      case "hardlink":
        this.#makeLink(path, bytes, entry);
        return;
      case "symlink":
        this.#create(path, () => symlinkSync(entry.linkName, bytes));
        break;
      case "char":
      case "block":
        this.#create(path, () => mknod(bytes, deviceMode(entry), deviceOf(entry)));
        break;
      case "fifo":
        this.#create(path, () => mknod(bytes, S_IFIFO | 0o600));
        break;
    }
    this.#inodes += 1;
    lchownSync(bytes, entry.uid, entry.gid);
    if (entry.type !== "symlink") chmodSync(bytes, entry.mode);
    setXattrs(bytes, entry);
    setTimes(bytes, entry.atime, entry.mtime);
    // A long target takes a block.
    this.#bytes += lstatSync(bytes).blocks * BLOCK_BYTES;
    if (entry.type === "symlink") {
      const { uid, gid, linkName } = entry;
      this.#note(path, { kind: "symlink", target: linkName.toString("latin1"), uid, gid });
    } else {
      this.#noteSpecial(path, bytes);
    }
    this.#noteXattrs(path, entry);
  }

  #makeDirectory(path: LayerPath, entry: TarEntry): void {
    const bytes = toBytes(path);
    if (path.length > 0) this.#ensureDirectory(path, bytes, 0o700);
    else this.#hasRoot = true;
    lchownSync(bytes, entry.uid, entry.gid);
    chmodSync(bytes, entry.mode);
    setXattrs(bytes, entry);
    const { uid, gid } = entry;
    const mode = entry.xattrs.size === 0 ? entry.mode : lstatSync(bytes).mode & PERMISSIONS;
    this.#note(path, { kind: "directory", mode, uid, gid });
    this.#noteXattrs(path, entry);
    this.#directories.add(bytes, entry);
  }

  #makeLink(path: LayerPath, bytes: Buffer, entry: TarEntry): void {
    const parts = splitPath(entry.linkName);
    const target = toBytes(parts);
    if (target.equals(bytes)) throw new TarError("a hard link to itself");
    this.#create(path, () => linkSync(target, bytes));
    this.#note(path, { kind: "hardlink", target: parts.join("/") });
  }

  /**
   * Runs `make`; makes room or parents when they are in the way or missing. Which of both is seen by
   * looking: what a system call has failed with is not certain here (`errno` in src/linux/libc.ts).
   */
  #create<T>(path: LayerPath, make: () => T): T {
    try {
      return make();
    } catch {
      if (statusAt(toBytes(path)) !== undefined) this.#remove(path);
      else this.#makeParents(path);
      return make();
    }
  }

  /** One that the archive does not mention, at least until now. */
  #implyDirectory(path: LayerPath, bytes: Buffer): void {
    this.#directories.add(bytes);
    const done = this.#ensureDirectory(path, bytes, PARENT_MODE);
    if (done === "there") return;
    // In a directory with setgid it has that and its group.
    const { mode, uid, gid } = lstatSync(bytes);
    const record = { kind: "directory", mode: mode & PERMISSIONS, uid, gid } as const;
    if (done === "made") this.#implied += 1;
    this.#note(path, done === "made" ? { ...record, implied: true } : record);
  }

  /** Says whether it was there, is new, or replaces what this layer has deleted of those below. */
  #ensureDirectory(path: LayerPath, bytes: Buffer, mode: number): "there" | "made" | "replaced" {
    let done: "made" | "replaced" = "made";
    const code = tryMkdir(bytes, mode);
    if (code === "ENOENT" || code === "ENOTDIR") {
      this.#makeParents(path);
      mkdirSync(bytes, { mode });
    } else if (code === "EEXIST") {
      const existing = lstatSync(bytes);
      if (existing.isDirectory()) return "there";
      this.#remove(path);
      mkdirSync(bytes, { mode });
      // A whiteout and a directory of one name: the directory replaces what lies below.
      if (isWhiteout(existing)) {
        done = "replaced";
        this.#makeOpaque(path);
      }
    }
    this.#inodes += 1;
    return done;
  }

  /** Makes the missing directories above `path`, which the archive does not mention. */
  #makeParents(path: LayerPath): void {
    for (let depth = 1; depth < path.length; depth++) {
      const parent = path.slice(0, depth);
      const bytes = toBytes(parent);
      const existing = lstatSync(bytes, { throwIfNoEntry: false });
      if (existing?.isDirectory() || existing?.isSymbolicLink()) continue;
      if (existing !== undefined && !isWhiteout(existing)) {
        throw new TarError(`${quote(bytes)} is no directory, but has an entry below it`);
      }
      this.#implyDirectory(parent, bytes);
    }
  }

  #whiteout(path: LayerPath): void {
    const bytes = toBytes(path);
    const existing = lstatSync(bytes, { throwIfNoEntry: false });
    if (existing === undefined) {
      this.#create(path, () => mknod(bytes, S_IFCHR, 0));
      this.#inodes += 1;
      this.#noteSpecial(path, bytes);
    } else if (existing.isDirectory()) {
      // The mark hides lower layers only: what this layer itself has stays.
      this.#makeOpaque(path);
    }
  }

  #opaque(path: LayerPath): void {
    const bytes = toBytes(path);
    if (path.length > 0) {
      this.#implyDirectory(path, bytes);
    }
    this.#makeOpaque(path);
  }

  /** A later entry replaces an earlier one of the same name, whatever that is. */
  #remove(path: LayerPath): void {
    this.#note(path, undefined);
    this.#removeTree(toBytes(path));
  }

  /** Removes a file, or a directory with all below it, and takes them from the sums. */
  #removeTree(bytes: Buffer): void {
    const stat = lstatSync(bytes);
    if (stat.isDirectory()) {
      for (const name of readdirSync(bytes, { encoding: "buffer" })) {
        this.#removeTree(Buffer.concat([bytes, SLASH, name]));
      }
      rmdirSync(bytes);
    } else {
      unlinkSync(bytes);
      if (stat.nlink > 1) return;
      this.#bytes -= stat.blocks * BLOCK_BYTES;
    }
    this.#inodes -= 1;
  }
}
