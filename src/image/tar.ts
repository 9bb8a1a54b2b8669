/**
 * A push parser for tar archives: bytes in, entries out, in constant memory. It knows ustar, GNU long
 * names, PAX, base-256 numbers and sparse files, and no file system.
 *
 * It takes what Go's archive/tar takes, which containerd and CRI-O read layers with: a parser that sees other
 * entries in the same bytes than theirs (and than scanners) would run what nobody has looked at. It also
 * takes what can only be meant one way: no padding at the end, sparse files of the old format, type "7".
 */
import { type PaxRecords, parsePax } from "./pax.ts";
import { OldSparse, readSparseRecords, SparseData, type SparseMap } from "./sparse.ts";
import { TarError } from "./tar-error.ts";
import { BLOCK_BYTES, parseHeader, type TarHeader } from "./tar-header.ts";

export type EntryType = "file" | "hardlink" | "symlink" | "char" | "block" | "directory" | "fifo";

/** One entry. Names are raw bytes without NUL, as the archive has them: not cleaned, not safe. */
export interface TarEntry {
  type: EntryType;
  name: Buffer;
  linkName: Buffer;
  /** Permission bits and setuid, setgid, sticky. */
  mode: number;
  uid: number;
  gid: number;
  /** Bytes of the file, its holes included; 0 for all but files. */
  size: number;
  /** Whether what is stored of it is not what it is. */
  isSparse: boolean;
  mtime: { seconds: number; nanoseconds: number };
  atime: { seconds: number; nanoseconds: number };
  major: number;
  minor: number;
  xattrs: ReadonlyMap<string, Buffer>;
}

/** Called in order for each entry: `entry`, then `data` and `hole` until `size` bytes have come, then `end`. */
export interface TarSink {
  entry(entry: TarEntry): void;
  /** The bytes are only lent: they change after the call. */
  data(chunk: Buffer): void;
  /** So many bytes of a sparse file are zeros. */
  hole(bytes: number): void;
  end(): void;
}

/** Long names and PAX records of one entry together; xattr values are at most 64 KiB each in Linux. */
const METADATA_LIMIT_BYTES = 1024 * 1024;

const TYPES: Record<string, EntryType> = {
  "\0": "file",
  "0": "file",
  "7": "file",
  S: "file",
  "1": "hardlink",
  "2": "symlink",
  "3": "char",
  "4": "block",
  "5": "directory",
  "6": "fifo",
};

const SLASH = 0x2f;

export class TarParser {
  readonly #sink: TarSink;
  readonly #block = Buffer.alloc(BLOCK_BYTES);
  #blockFill = 0;
  /** Data bytes of the current entry (or metadata) still to come, and padding after them. */
  #left = 0;
  #padding = 0;
  #state: "header" | "data" | "metadata" | "end" = "header";
  #zeroBlocks = 0;
  #metadataType = "";
  #metadata: Buffer[] = [];
  #metadataBytes = 0;
  #pax: PaxRecords | undefined;
  #longName: Buffer | undefined;
  #longLink: Buffer | undefined;
  /** A sparse file of the old format whose map goes on in the next block. */
  #old: { header: TarHeader; sparse: OldSparse } | undefined;
  /** The file whose data comes, if it is sparse. */
  #sparse: SparseData | undefined;

  constructor(sink: TarSink) {
    this.#sink = sink;
  }

  /** Takes the next bytes. Throws `TarError`; the parser is of no use afterwards. */
  push(chunk: Buffer): void {
    let offset = 0;
    while (offset < chunk.length && this.#state !== "end") {
      if (this.#left > 0) offset = this.#takeData(chunk, offset);
      else if (this.#padding > 0) {
        const count = Math.min(this.#padding, chunk.length - offset);
        this.#padding -= count;
        offset += count;
      } else offset = this.#takeHeader(chunk, offset);
    }
  }

  /**
   * Gives up the data of the entry whose header has just come; returns how many bytes the caller may
   * leave out before it pushes on. For reading a list of names in files that can be sought in.
   */
  skipData(): number {
    if (this.#state !== "data") return 0;
    const count = this.#left + this.#padding;
    this.#left = 0;
    this.#padding = 0;
    this.#sparse = undefined;
    this.#finishData();
    return count;
  }

  /** Whether the end mark has come; what follows it is no part of the archive. */
  get ended(): boolean {
    return this.#state === "end";
  }

  /** Says that no more bytes come. An archive may end with an entry's data, without padding and end mark. */
  finish(): void {
    if (this.#state === "end") return;
    const pending = this.#pax ?? this.#longName ?? this.#longLink ?? this.#old;
    if (this.#state !== "header" || this.#blockFill > 0 || pending) {
      throw new TarError("the archive is cut off");
    }
  }

  #takeHeader(chunk: Buffer, offset: number): number {
    const count = Math.min(BLOCK_BYTES - this.#blockFill, chunk.length - offset);
    chunk.copy(this.#block, this.#blockFill, offset, offset + count);
    this.#blockFill += count;
    if (this.#blockFill === BLOCK_BYTES) {
      this.#blockFill = 0;
      if (this.#old === undefined) this.#header();
      else this.#extension(this.#old);
    }
    return offset + count;
  }

  #takeData(chunk: Buffer, offset: number): number {
    const count = Math.min(this.#left, chunk.length - offset);
    const piece = chunk.subarray(offset, offset + count);
    if (this.#state === "metadata") this.#metadata.push(Buffer.from(piece));
    else if (this.#sparse !== undefined) this.#sparse.push(piece);
    else this.#sink.data(piece);
    this.#left -= count;
    if (this.#left === 0) this.#finishData();
    return offset + count;
  }

  #finishData(): void {
    const state = this.#state;
    this.#state = "header";
    if (state === "data") {
      this.#sparse?.finish();
      this.#sparse = undefined;
      this.#sink.end();
    } else this.#finishMetadata(Buffer.concat(this.#metadata));
  }

  #header(): void {
    if (this.#block[0] === 0 && this.#block.every((byte) => byte === 0)) {
      this.#zeroBlocks += 1;
      if (this.#zeroBlocks === 2) this.#state = "end";
      return;
    }
    // What comes after half an end mark some programs would not see.
    if (this.#zeroBlocks > 0) throw new TarError("an entry follows a block of zeros");
    const header = parseHeader(this.#block);
    if ("xgLK".includes(header.type)) this.#startMetadata(header);
    else if (header.type === "S") this.#startOldSparse(header);
    else this.#startEntry(header);
  }

  #startOldSparse(header: TarHeader): void {
    if (!header.isGnu) throw new TarError('type "S" without the format of GNU tar');
    const sparse = new OldSparse(this.#block);
    if (sparse.extended) this.#old = { header, sparse };
    else this.#startEntry(header, sparse);
  }

  #extension({ header, sparse }: { header: TarHeader; sparse: OldSparse }): void {
    sparse.extend(this.#block);
    if (sparse.extended) return;
    this.#old = undefined;
    this.#startEntry(header, sparse);
  }

  #startMetadata(header: TarHeader): void {
    this.#metadataBytes += header.size;
    if (this.#metadataBytes > METADATA_LIMIT_BYTES) {
      throw new TarError(`more than ${METADATA_LIMIT_BYTES} bytes of names and attributes`);
    }
    this.#metadataType = header.type;
    this.#metadata = [];
    this.#expect(header.size, "metadata");
  }

  #finishMetadata(data: Buffer): void {
    this.#metadata = [];
    switch (this.#metadataType) {
      case "x":
        this.#pax = parsePax(data);
        break;
      case "g":
        // Global records are comments of the tool that packed it ("git archive"): left out by all.
        this.#metadataBytes = 0;
        break;
      case "L":
        this.#longName = untilNul(data);
        break;
      case "K":
        this.#longLink = untilNul(data);
        break;
    }
  }

  #startEntry(header: TarHeader, old?: OldSparse): void {
    const stored = this.#pax?.size ?? header.size;
    const sparse = old ?? this.#paxSparse(stored);
    const entry = this.#merge(header, sparse?.size ?? stored, sparse !== undefined);
    this.#pax = undefined;
    this.#longName = undefined;
    this.#longLink = undefined;
    this.#metadataBytes = 0;
    this.#sink.entry(entry);
    if (sparse !== undefined) this.#sparse = new SparseData(sparse, stored, this.#sink);
    // Other types' size fields say nothing about data: hard links of some writers hold the file's.
    this.#expect(entry.type === "file" ? stored : 0, "data");
  }

  #paxSparse(stored: number): { size: number; map: SparseMap | undefined } | undefined {
    const records = this.#pax?.sparse;
    const sparse = records && readSparseRecords(records);
    return sparse && { size: sparse.size ?? stored, map: sparse.map };
  }

  #expect(size: number, state: "data" | "metadata"): void {
    this.#left = size;
    this.#padding = (BLOCK_BYTES - (size % BLOCK_BYTES)) % BLOCK_BYTES;
    this.#state = state;
    if (size === 0) this.#finishData();
  }

  #merge(header: TarHeader, size: number, isSparse: boolean): TarEntry {
    const pax = this.#pax;
    const name =
      (isSparse ? pax?.sparse?.name : undefined) ?? pax?.path ?? this.#longName ?? header.name;
    const linkName = pax?.linkPath ?? this.#longLink ?? header.linkName;
    // Names that are not of PAX end at a NUL byte.
    if (name.includes(0) || linkName.includes(0)) throw new TarError("a name holds a NUL byte");
    const type = typeOf(header, name);
    if (isSparse && type !== "file") throw new TarError(`a sparse ${type}`);
    const mtime = pax?.mtime ?? { seconds: header.mtimeSeconds, nanoseconds: 0 };
    return {
      type,
      name,
      linkName,
      mode: header.mode & 0o7777,
      uid: ownerId(pax?.uid ?? header.uid, "uid"),
      gid: ownerId(pax?.gid ?? header.gid, "gid"),
      size: type === "file" ? size : 0,
      isSparse,
      mtime,
      atime: pax?.atime ?? mtime,
      major: header.major,
      minor: header.minor,
      xattrs: pax?.xattrs ?? new Map(),
    };
  }
}

function typeOf(header: TarHeader, name: Buffer): EntryType {
  const type = TYPES[header.type];
  if (type === undefined) {
    throw new TarError(`entry type ${JSON.stringify(header.type)} is not supported`);
  }
  // Before ustar a directory was a file whose name ends in a slash. Not with type "0": GNU tar makes a directory
  // of that too, but Go a file with content, and both would be read from other bytes.
  return header.type === "\0" && name.at(-1) === SLASH ? "directory" : type;
}

/**
 * An id of Linux: 32 bits, negative ones as the same bits (nobody is -2 on some systems).
 *
 * @throws TarError for what chown(2) would take for "leave it": the file would stay root's. Go's readers
 *   leave it, and cut longer ids.
 */
function ownerId(value: number, what: string): number {
  const id = value < 0 && value >= -(2 ** 31) ? value + 2 ** 32 : value;
  if (id < 0 || id >= 2 ** 32 - 1)
    throw new TarError(`${what} ${value} is none that a file can have`);
  return id;
}

function untilNul(data: Buffer): Buffer {
  const end = data.indexOf(0);
  return end < 0 ? data : data.subarray(0, end);
}
