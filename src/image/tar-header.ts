/** One 512-byte header of a tar archive: v7, ustar and GNU (tar(5) of libarchive, POSIX.1-1988). */
import { TarError } from "./tar-error.ts";

export const BLOCK_BYTES = 512;
const SPACE = 0x20;
const NOTHING = Buffer.alloc(0);
const GNU_MAGIC = "ustar  \0";

/** A header as it stands; `type` is the type flag's character. */
export interface TarHeader {
  name: Buffer;
  linkName: Buffer;
  type: string;
  /** Whether it has GNU tar's fields. */
  isGnu: boolean;
  /** As they stand; they may be negative. */
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtimeSeconds: number;
  major: number;
  minor: number;
}

/** Reads a header block. Throws `TarError` when the checksum or a number is wrong. */
export function parseHeader(block: Buffer): TarHeader {
  checkSum(block);
  const magic = block.toString("latin1", 257, 265);
  const isUstar = magic.startsWith("ustar\0");
  const isGnu = magic === GNU_MAGIC;
  // star has times behind a shorter prefix.
  const isStar = isUstar && block.toString("latin1", 508, 512) === "tar\0";
  const hasPrefix = isUstar || (isGnu && hasGoPrefix(block));
  const prefix = hasPrefix ? text(block, 345, isStar ? 131 : 155) : NOTHING;
  const name = text(block, 0, 100);
  return {
    name: prefix.length === 0 ? name : Buffer.concat([prefix, Buffer.from("/"), name]),
    linkName: text(block, 157, 100),
    type: String.fromCharCode(block[156] ?? 0),
    isGnu,
    mode: parseNumber(block, 100, 8, "mode"),
    uid: parseNumber(block, 108, 8, "uid"),
    gid: parseNumber(block, 116, 8, "gid"),
    size: natural(block, 124, 12, "size"),
    mtimeSeconds: parseNumber(block, 136, 12, "mtime"),
    major: isUstar || isGnu ? parseNumber(block, 329, 8, "devmajor") : 0,
    minor: isUstar || isGnu ? parseNumber(block, 337, 8, "devminor") : 0,
  };
}

/**
 * Where ustar's prefix is, GNU tar has two times, or nothing. Go wrote a prefix there until 2016, and reads
 * what is no time as one.
 */
function hasGoPrefix(block: Buffer): boolean {
  try {
    for (const offset of [345, 357]) {
      if (block[offset] !== 0) parseNumber(block, offset, 12, "time");
    }
    return false;
  } catch (error) {
    if (error instanceof TarError) return text(block, 345, 155).every((byte) => byte < 0x80);
    throw error;
  }
}

/** The sum of all bytes with the checksum's own field as spaces; old writers summed signed bytes. */
function checkSum(block: Buffer): void {
  const digits = /^[ \0]*([0-7]{1,7})[ \0]*$/.exec(block.toString("latin1", 148, 156))?.[1];
  const expected = digits === undefined ? Number.NaN : Number.parseInt(digits, 8);
  let sum = 8 * SPACE;
  for (let index = 0; index < BLOCK_BYTES; index++) {
    if (index === 148) index = 156;
    sum += block[index] ?? 0;
  }
  if (expected !== sum && expected !== sum - 256 * highBytes(block)) {
    throw new TarError("not a tar archive, or damaged: a header's checksum is wrong");
  }
}

/** How many bytes outside of the checksum's field are negative when taken as signed. */
function highBytes(block: Buffer): number {
  return block.reduce(
    (count, byte, index) => count + (index >= 148 && index < 156 ? 0 : byte >> 7),
    0,
  );
}

function text(block: Buffer, offset: number, length: number): Buffer {
  if (block[offset] === 0) return NOTHING;
  const field = block.subarray(offset, offset + length);
  const end = field.indexOf(0);
  return Buffer.from(end < 0 ? field : field.subarray(0, end));
}

function natural(block: Buffer, offset: number, length: number, what: string): number {
  const value = parseNumber(block, offset, length, what);
  if (value < 0) throw new TarError(`${what} is negative`);
  return value;
}

/** Octal digits, padded in front too, or base 256 (two's complement) when the first byte's high bit is set. */
export function parseNumber(block: Buffer, offset: number, length: number, what: string): number {
  const first = block[offset] ?? 0;
  if ((first & 0x80) !== 0) return base256(block.subarray(offset, offset + length), what);
  let value = 0;
  let index = offset;
  const end = offset + length;
  while (index < end && (block[index] === SPACE || block[index] === 0)) index++;
  for (; index < end; index++) {
    const digit = (block[index] ?? 0) - 0x30;
    if (digit < 0 || digit > 7) break;
    value = value * 8 + digit;
  }
  // Padding may follow, and after a NUL anything.
  while (index < end && block[index] === SPACE) index++;
  if (index < end && block[index] !== 0) throw new TarError(`${what}: not an octal number`);
  return value;
}

function base256(field: Buffer, what: string): number {
  const negative = ((field[0] ?? 0) & 0x40) !== 0;
  let value = BigInt(negative ? (field[0] ?? 0) - 256 : (field[0] ?? 0) & 0x7f);
  for (const byte of field.subarray(1)) value = value * 256n + BigInt(byte);
  if (value > BigInt(Number.MAX_SAFE_INTEGER) || value < BigInt(Number.MIN_SAFE_INTEGER)) {
    throw new TarError(`${what} is out of range`);
  }
  return Number(value);
}
