/**
 * A push parser for tar archives: bytes in, entries out, in constant memory. It knows ustar, GNU long
 * names, PAX and base-256 numbers, and no file system.
 */
import { type PaxRecords, parsePax } from "./pax.ts";
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
  /** Bytes of data that follow; 0 for all but files. */
  size: number;
  mtime: { seconds: number; nanoseconds: number };
  atime: { seconds: number; nanoseconds: number };
  major: number;
  minor: number;
  xattrs: ReadonlyMap<string, Buffer>;
}

/** Called in order for each entry: `entry`, then `data` until `size` bytes have come, then `end`. */
export interface TarSink {
  entry(entry: TarEntry): void;
  /** The bytes are only lent: they change after the call. */
  data(chunk: Buffer): void;
  end(): void;
}

/** Long names and PAX records of one entry together; xattr values are at most 64 KiB each in Linux. */
const METADATA_LIMIT_BYTES = 1024 * 1024;

const TYPES: Record<string, EntryType> = {
  "\0": "file",
  "0": "file",
  "7": "file",
  "1": "hardlink",
  "2": "symlink",
  "3": "char",
  "4": "block",
  "5": "directory",
  "6": "fifo",
};

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
    this.#finishData();
    return count;
  }

  /** Whether the end mark has come; what follows it is no part of the archive. */
  get ended(): boolean {
    return this.#state === "end";
  }

  /** Says that no more bytes come. An archive may end at an entry's border without an end mark. */
  finish(): void {
    if (this.#state === "end") return;
    const pending = this.#pax ?? this.#longName ?? this.#longLink;
    if (this.#state !== "header" || this.#blockFill > 0 || this.#padding > 0 || pending) {
      throw new TarError("the archive is cut off");
    }
  }

  #takeHeader(chunk: Buffer, offset: number): number {
    const count = Math.min(BLOCK_BYTES - this.#blockFill, chunk.length - offset);
    chunk.copy(this.#block, this.#blockFill, offset, offset + count);
    this.#blockFill += count;
    if (this.#blockFill === BLOCK_BYTES) {
      this.#blockFill = 0;
      this.#header();
    }
    return offset + count;
  }

  #takeData(chunk: Buffer, offset: number): number {
    const count = Math.min(this.#left, chunk.length - offset);
    const piece = chunk.subarray(offset, offset + count);
    if (this.#state === "metadata") this.#metadata.push(Buffer.from(piece));
    else this.#sink.data(piece);
    this.#left -= count;
    if (this.#left === 0) this.#finishData();
    return offset + count;
  }

  #finishData(): void {
    const state = this.#state;
    this.#state = "header";
    if (state === "data") this.#sink.end();
    else this.#finishMetadata(Buffer.concat(this.#metadata));
  }

  #header(): void {
    if (this.#block[0] === 0 && this.#block.every((byte) => byte === 0)) {
      this.#zeroBlocks += 1;
      if (this.#zeroBlocks === 2) this.#state = "end";
      return;
    }
    this.#zeroBlocks = 0;
    const header = parseHeader(this.#block);
    if ("xgLK".includes(header.type)) this.#startMetadata(header);
    else this.#startEntry(header);
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

  #startEntry(header: TarHeader): void {
    const entry = this.#merge(header);
    this.#pax = undefined;
    this.#longName = undefined;
    this.#longLink = undefined;
    this.#metadataBytes = 0;
    this.#sink.entry(entry);
    // Other types' size fields say nothing about data: hard links of some writers hold the file's.
    this.#expect(entry.size, "data");
  }

  #expect(size: number, state: "data" | "metadata"): void {
    this.#left = size;
    this.#padding = (BLOCK_BYTES - (size % BLOCK_BYTES)) % BLOCK_BYTES;
    this.#state = state;
    if (size === 0) this.#finishData();
  }

  #merge(header: TarHeader): TarEntry {
    const pax = this.#pax;
    const name = pax?.path ?? this.#longName ?? header.name;
    const linkName = pax?.linkPath ?? this.#longLink ?? header.linkName;
    // Names that are not of PAX end at a NUL byte.
    if (pax?.path?.includes(0) || pax?.linkPath?.includes(0)) {
      throw new TarError("a name holds a NUL byte");
    }
    if (header.type === "S") throw new TarError("sparse files are not supported");
    let type = TYPES[header.type];
    if (type === undefined) {
      throw new TarError(`entry type ${JSON.stringify(header.type)} is not supported`);
    }
    // Before ustar a directory was a file whose name ends in a slash.
    if (type === "file" && name.at(-1) === 0x2f) type = "directory";
    const mtime = pax?.mtime ?? { seconds: header.mtimeSeconds, nanoseconds: 0 };
    return {
      type,
      name,
      linkName,
      mode: header.mode & 0o7777,
      uid: pax?.uid ?? header.uid,
      gid: pax?.gid ?? header.gid,
      size: type === "file" ? (pax?.size ?? header.size) : 0,
      mtime,
      atime: pax?.atime ?? mtime,
      major: header.major,
      minor: header.minor,
      xattrs: pax?.xattrs ?? new Map(),
    };
  }
}

function untilNul(data: Buffer): Buffer {
  const end = data.indexOf(0);
  return end < 0 ? data : data.subarray(0, end);
}
