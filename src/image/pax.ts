/** PAX extended headers (POSIX.1-2001 pax, with SCHILY.xattr.* as star and GNU tar write them). */
import { assignSparse, emptyRecords, type SparseRecords } from "./sparse.ts";
import { TarError } from "./tar-error.ts";

/** What the extended headers of one entry say; absent where they say nothing. Names are raw bytes. */
export interface PaxRecords {
  path?: Buffer;
  linkPath?: Buffer;
  size?: number;
  uid?: number;
  gid?: number;
  mtime?: { seconds: number; nanoseconds: number };
  atime?: { seconds: number; nanoseconds: number };
  xattrs: Map<string, Buffer>;
  /** Of GNU tar's formats for sparse files. */
  sparse?: SparseRecords;
}

const XATTR_PREFIX = "SCHILY.xattr.";
const SPARSE_PREFIX = "GNU.sparse.";
const SPACE = 0x20;
const EQUALS = 0x3d;
const NEWLINE = 0x0a;

/** Reads the records of one "x" header: `LENGTH KEY=VALUE\n`, the value being any bytes. */
export function parsePax(data: Buffer): PaxRecords {
  const records: PaxRecords = { xattrs: new Map() };
  let offset = 0;
  while (offset < data.length) {
    // Some writers pad the block with NULs.
    if (data[offset] === 0 && data.subarray(offset).every((byte) => byte === 0)) break;
    const space = data.indexOf(SPACE, offset);
    const digits = space < 0 ? "" : data.toString("latin1", offset, space);
    if (!/^[0-9]{1,10}$/.test(digits)) throw new TarError("a PAX record has no length");
    const end = offset + Number(digits);
    const equals = data.indexOf(EQUALS, space);
    if (end > data.length || equals < 0 || equals >= end || data[end - 1] !== NEWLINE) {
      throw new TarError("a PAX record is cut off");
    }
    const key = data.toString("utf8", space + 1, equals);
    if (key === "" || key.includes("\0")) throw new TarError("a PAX record has no name");
    assign(records, key, data.subarray(equals + 1, end - 1));
    offset = end;
  }
  return records;
}

function assign(records: PaxRecords, key: string, value: Buffer): void {
  if (key.startsWith(XATTR_PREFIX)) {
    records.xattrs.set(key.slice(XATTR_PREFIX.length), Buffer.from(value));
    return;
  }
  if (key.startsWith(SPARSE_PREFIX)) {
    records.sparse ??= emptyRecords();
    assignSparse(records.sparse, key.slice(SPARSE_PREFIX.length), value);
    return;
  }
  // An empty value takes the record back: the header's own field counts.
  const absent = value.length === 0;
  switch (key) {
    case "path":
      records.path = absent ? undefined : Buffer.from(value);
      break;
    case "linkpath":
      records.linkPath = absent ? undefined : Buffer.from(value);
      break;
    case "size":
      records.size = absent ? undefined : decimal(key, value);
      if ((records.size ?? 0) < 0) throw new TarError("PAX size is negative");
      break;
    case "uid":
    case "gid":
      records[key] = absent ? undefined : decimal(key, value);
      break;
    case "mtime":
    case "atime":
      records[key] = absent ? undefined : time(key, value);
      break;
  }
}

function decimal(key: string, value: Buffer): number {
  const text = value.toString("latin1");
  const number = Number(text);
  if (!/^-?[0-9]+$/.test(text) || !Number.isSafeInteger(number)) {
    throw new TarError(`PAX ${key}: ${JSON.stringify(text.slice(0, 40))} is not a number`);
  }
  return number;
}

function time(key: string, value: Buffer): { seconds: number; nanoseconds: number } {
  const text = value.toString("latin1");
  const match = /^(-?)([0-9]{1,15})(?:\.([0-9]*))?$/.exec(text);
  if (match === null) throw new TarError(`PAX ${key}: ${JSON.stringify(text.slice(0, 40))}`);
  const seconds = Number(match[2]);
  const nanoseconds = Number((match[3] ?? "").slice(0, 9).padEnd(9, "0"));
  if (match[1] === "") return { seconds, nanoseconds };
  if (nanoseconds === 0) return { seconds: seconds === 0 ? 0 : -seconds, nanoseconds };
  return { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds };
}
