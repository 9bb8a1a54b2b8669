/**
 * Sparse files of GNU tar: the old format (type "S") and the PAX formats 0.0, 0.1 and 1.0 (GNU tar's manual,
 * "Storing Sparse Files"). A map says which parts of the file are stored, one after the other; the rest
 * is holes. Maps are refused as Go's archive/tar refuses them: parts that overlap, are out of order or lie
 * beyond the end, and data that is more or less than the map says.
 */
import { TarError } from "./tar-error.ts";
import { BLOCK_BYTES, parseNumber } from "./tar-header.ts";

/** Offset and length of each stored part, in turn. */
export type SparseMap = readonly number[];

/** What the PAX records of an entry say about it; numbers are text still. */
export interface SparseRecords {
  major: string;
  minor: string;
  name: Buffer | undefined;
  /** GNU.sparse.size or realsize; "" when neither is there. */
  size: string;
  blocks: string;
  map: string;
  /** Of 0.0: GNU.sparse.offset and numbytes as they came. */
  parts: string[];
}

/** As the other metadata of an entry. */
const MAP_LIMIT_BYTES = 1024 * 1024;
const NEWLINE = 0x0a;
const DIGIT_ZERO = 0x30;

/** Takes one "GNU.sparse." record; those that mean nothing here are left out. */
export function assignSparse(records: SparseRecords, key: string, value: Buffer): void {
  const text = value.toString("latin1");
  switch (key) {
    case "major":
    case "minor":
    case "map":
      records[key] = text;
      break;
    case "numblocks":
      records.blocks = text;
      break;
    case "size":
    case "realsize":
      if (text !== "") records.size = text;
      break;
    case "name":
      records.name = value.length === 0 ? undefined : Buffer.from(value);
      break;
    case "offset":
    case "numbytes":
      if ((records.parts.length % 2 === 0) !== (key === "offset")) throw new TarError(DISORDER);
      records.parts.push(text);
      break;
  }
}

const DISORDER = "a sparse file's map: offset and numbytes do not alternate";

export function emptyRecords(): SparseRecords {
  return { major: "", minor: "", name: undefined, size: "", blocks: "", map: "", parts: [] };
}

/** A sparse file of the PAX formats. `map` is undefined when it comes before the data (1.0). */
export interface PaxSparse {
  /** Bytes of the file with its holes; undefined when the records do not say. */
  size: number | undefined;
  map: SparseMap | undefined;
}

/**
 * Reads the records; undefined when they are not those of a sparse file.
 *
 * @throws TarError also for formats that are unknown: Go unpacks such a file's map as its content, under a
 *   name that is none of it, which no one can want.
 */
export function readSparseRecords(records: SparseRecords): PaxSparse | undefined {
  const { major, minor, parts, map } = records;
  const version = major === "" && minor === "" ? "" : `${major}.${minor}`;
  if (version === "" && map === "" && parts.length === 0) return undefined;
  const size = records.size === "" ? undefined : decimal(records.size);
  if (version === "1.0") return { size, map: undefined };
  if (version !== "" && version !== "0.0" && version !== "0.1") {
    throw new TarError(
      `sparse files of format ${JSON.stringify(version.slice(0, 40))} are unknown`,
    );
  }
  const words = parts.length > 0 ? parts : map === "" ? [] : map.split(",");
  if (words.length !== 2 * decimal(records.blocks)) {
    throw new TarError("a sparse file's map has another length than its records say");
  }
  return { size, map: words.map(decimal) };
}

function decimal(text: string): number {
  const value = Number(text);
  if (!/^[0-9]{1,16}$/.test(text) || !Number.isSafeInteger(value)) {
    throw new TarError(`a sparse file's map: ${JSON.stringify(text.slice(0, 40))} is not a number`);
  }
  return value;
}

/** The map of the old format, which is in the header and in blocks after it. */
export class OldSparse {
  readonly size: number;
  readonly map: number[] = [];
  /** Whether another block follows. */
  extended: boolean;
  #bytes = 0;

  constructor(header: Buffer) {
    this.extended = this.#take(header, 386, 4);
    this.size = parseNumber(header, 483, 12, "realsize");
  }

  extend(block: Buffer): void {
    this.#bytes += block.length;
    if (this.#bytes > MAP_LIMIT_BYTES) throw tooLong();
    this.extended = this.#take(block, 0, 21);
  }

  /** Two fields of 12 bytes for each part, then the flag. */
  #take(block: Buffer, offset: number, count: number): boolean {
    const end = offset + count * 24;
    for (let at = offset; at < end && block[at] !== 0; at += 24) {
      this.map.push(
        parseNumber(block, at, 12, "offset"),
        parseNumber(block, at + 12, 12, "numbytes"),
      );
    }
    return block[end] !== 0;
  }
}

const tooLong = () => new TarError(`a sparse file's map is longer than ${MAP_LIMIT_BYTES} bytes`);

interface Sink {
  data(chunk: Buffer): void;
  hole(bytes: number): void;
}

/** Takes what is stored of a file, and gives the file: its data and its holes. */
export class SparseData {
  readonly #sink: Sink;
  readonly #size: number;
  #stored: number;
  #map: SparseMap | undefined;
  /** In the map: the part that comes, and how much of it has come. */
  #part = 0;
  #taken = 0;
  #position = 0;
  #mapText = new MapReader();

  /** `storedBytes` with the map, when that comes first. */
  constructor(
    { size, map }: { size: number; map: SparseMap | undefined },
    storedBytes: number,
    sink: Sink,
  ) {
    this.#sink = sink;
    this.#size = size;
    this.#stored = storedBytes;
    if (map !== undefined) this.#begin(map);
  }

  push(chunk: Buffer): void {
    let rest = chunk;
    if (this.#map === undefined) {
      const count = this.#mapText.push(chunk);
      this.#stored -= count;
      rest = chunk.subarray(count);
      if (this.#mapText.map !== undefined) this.#begin(this.#mapText.map);
    }
    const map = this.#map ?? [];
    while (rest.length > 0 && this.#part < map.length) {
      this.#fill(map[this.#part] ?? 0);
      const length = map[this.#part + 1] ?? 0;
      const piece = rest.subarray(0, length - this.#taken);
      if (piece.length > 0) this.#sink.data(piece);
      this.#position += piece.length;
      this.#taken += piece.length;
      rest = rest.subarray(piece.length);
      if (this.#taken === length) [this.#part, this.#taken] = [this.#part + 2, 0];
    }
  }

  /** All that is stored has come. */
  finish(): void {
    if (this.#map === undefined) throw new TarError("a sparse file's map is cut off");
    this.#fill(this.#size);
  }

  #fill(offset: number): void {
    if (offset > this.#position) this.#sink.hole(offset - this.#position);
    this.#position = Math.max(this.#position, offset);
  }

  #begin(map: SparseMap): void {
    let [end, bytes] = [0, 0];
    for (let index = 0; index < map.length; index += 2) {
      const [offset = 0, length = 0] = [map[index], map[index + 1]];
      if (offset < end || length < 0 || offset + length > this.#size) {
        throw new TarError(
          `a sparse file's map: ${length} bytes at ${offset} of ${this.#size}, after ${end}`,
        );
      }
      end = offset + length;
      bytes += length;
    }
    if (bytes !== this.#stored) {
      throw new TarError(`a sparse file has ${this.#stored} bytes stored, but a map of ${bytes}`);
    }
    this.#map = map;
  }
}

/** The map of format 1.0: lines of digits, padded to whole blocks. */
class MapReader {
  /** When it is complete. */
  map: SparseMap | undefined;
  readonly #numbers: number[] = [];
  /** Numbers that come; the first says how many parts there are. */
  #wanted = 1;
  #value = Number.NaN;
  #bytes = 0;

  /** Returns how many of the bytes belong to the map. */
  push(chunk: Buffer): number {
    for (let index = 0; index < chunk.length; index++) {
      this.#bytes += 1;
      if (this.#bytes > MAP_LIMIT_BYTES) throw tooLong();
      if (this.#numbers.length < this.#wanted) this.#take(chunk[index] ?? 0);
      if (this.#numbers.length === this.#wanted && this.#bytes % BLOCK_BYTES === 0) {
        this.map = this.#numbers.slice(1);
        return index + 1;
      }
    }
    return chunk.length;
  }

  #take(byte: number): void {
    if (byte === NEWLINE && !Number.isNaN(this.#value)) {
      this.#numbers.push(this.#value);
      if (this.#numbers.length === 1) this.#wanted = 1 + 2 * this.#value;
      if (this.#wanted > MAP_LIMIT_BYTES) throw tooLong();
      this.#value = Number.NaN;
      return;
    }
    const digit = byte - DIGIT_ZERO;
    this.#value = (Number.isNaN(this.#value) ? 0 : this.#value) * 10 + digit;
    if (digit < 0 || digit > 9 || !Number.isSafeInteger(this.#value)) {
      throw new TarError("a sparse file's map holds something that is not a number");
    }
  }
}
