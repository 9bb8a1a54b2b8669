/**
 * Looks users and groups up in an image's passwd(5) and group(5). The image decides how long these are, so
 * they are read piece by piece through one buffer and searched as bytes: between two pieces others have
 * their turn, and memory does not grow with the files.
 */
import type { FileHandle } from "node:fs/promises";
import { CribError, messageOf } from "../../error.ts";
import { openFileInRoot } from "../../linux/file.ts";

/** -1 means "unchanged" to setuid(2), so the last id is 2^32 - 2. */
export const MAX_ID = 0xffff_fffe;
/** Of a file. The largest that directories of whole companies were dumped into have some 100,000 lines. */
const MAX_FILE_BYTES = 8 * 1024 * 1024;
/** What is searched at once, well below a millisecond; a field that is longer is nobody's. */
const PIECE_BYTES = 64 * 1024;
/** Groups of one user. Each container's record keeps them; the kernel's own limit is 65,536. */
const MAX_GROUPS = 4096;

export interface UserEntry {
  name: string;
  uid: number;
  gid: number;
  /** "" when it is no absolute path. */
  home: string;
}

/** What of group(5) is asked for: the id of the group `name`, the ids of all groups that have `member`. */
export interface GroupQuery {
  name: string | undefined;
  member: string | undefined;
}

/** The first entry of the image's /etc/passwd with this name or uid. */
export async function findUser(
  rootfs: string,
  wanted: string | number,
): Promise<UserEntry | undefined> {
  const search = new UserSearch(wanted);
  await searchFile(rootfs, "/etc/passwd", search);
  return search.found;
}

/** What the image's /etc/group says. */
export async function findGroups(
  rootfs: string,
  query: GroupQuery,
): Promise<{ named: number | undefined; ofMember: ReadonlySet<number> }> {
  const search = new GroupSearch(query);
  await searchFile(rootfs, "/etc/group", search);
  return search;
}

/** Takes the fields of a file, in order. */
interface Search {
  /** The field that is a list: it comes part by part. */
  readonly listField: number;
  /** `bytes` has it from `start` to `end`, without white space around it, during the call. */
  field(index: number, bytes: Buffer, start: number, end: number): void;
  /** False: nothing more is wanted. */
  lineEnd(): boolean;
}

class UserSearch implements Search {
  readonly listField = -1;
  found: UserEntry | undefined;
  readonly #name: Buffer | undefined;
  readonly #uid: number | undefined;
  #entry: Partial<UserEntry> = {};

  constructor(wanted: string | number) {
    this.#name = typeof wanted === "string" ? Buffer.from(wanted) : undefined;
    this.#uid = typeof wanted === "string" ? undefined : wanted;
  }

  field(index: number, bytes: Buffer, start: number, end: number): void {
    const entry = this.#entry;
    const text = () => bytes.toString("utf8", start, end);
    if (index === 0) {
      const name = this.#name;
      const matches = name === undefined ? end > start : isEqual(name, bytes, start, end);
      if (matches) entry.name = text();
    } else if (entry.name === undefined) return;
    else if (index === 2) entry.uid = idOf(bytes, start, end);
    else if (index === 3) entry.gid = idOf(bytes, start, end);
    else if (index === 5) entry.home = bytes[start] === SLASH ? text() : "";
  }

  lineEnd(): boolean {
    const { name, uid, gid, home = "" } = this.#entry;
    this.#entry = {};
    if (name === undefined || uid === undefined || gid === undefined) return true;
    if (this.#uid !== undefined && uid !== this.#uid) return true;
    this.found = { name, uid, gid, home };
    return false;
  }
}

class GroupSearch implements Search {
  readonly listField = 3;
  named: number | undefined;
  readonly ofMember = new Set<number>();
  readonly #name: Buffer | undefined;
  readonly #member: Buffer | undefined;
  #hasName = false;
  #isNamed = false;
  #hasMember = false;
  #gid: number | undefined;

  constructor({ name, member }: GroupQuery) {
    this.#name = name === undefined ? undefined : Buffer.from(name);
    this.#member = member === undefined ? undefined : Buffer.from(member);
  }

  field(index: number, bytes: Buffer, start: number, end: number): void {
    if (index === 0) {
      this.#hasName = end > start;
      this.#isNamed = isEqual(this.#name, bytes, start, end);
    } else if (index === 2) this.#gid = idOf(bytes, start, end);
    else if (index === 3) this.#hasMember ||= isEqual(this.#member, bytes, start, end);
  }

  lineEnd(): boolean {
    if (this.#hasName && this.#gid !== undefined) {
      if (this.#isNamed) this.named ??= this.#gid;
      if (this.#hasMember) this.ofMember.add(this.#gid);
      if (this.ofMember.size > MAX_GROUPS) {
        throw new Error(`${this.#member} is in more than ${MAX_GROUPS} groups`);
      }
    }
    this.#hasName = this.#isNamed = this.#hasMember = false;
    this.#gid = undefined;
    return this.#member !== undefined || this.named === undefined;
  }
}

const NEWLINE = 0x0a;
const SPACE = 0x20;
const COMMA = 0x2c;
const SLASH = 0x2f;
const ZERO = 0x30;
const COLON = 0x3a;

/** An image may lack the file; it may not have something else in its place. */
async function searchFile(rootfs: string, path: string, search: Search): Promise<void> {
  try {
    await using file = await openFileInRoot(rootfs, path);
    if (file !== undefined) await searchOpened(file, search);
  } catch (cause) {
    throw new CribError("InvalidArgument", `image file ${path}: ${messageOf(cause)}`, { cause });
  }
}

async function searchOpened(file: FileHandle, search: Search): Promise<void> {
  const fields = new Fields(search);
  for (let total = 0; total <= MAX_FILE_BYTES; ) {
    const { bytesRead } = await file.read(fields.room);
    if (bytesRead === 0) return fields.end();
    if (!fields.take(bytesRead)) return;
    total += bytesRead;
  }
  throw new Error(`is larger than ${MAX_FILE_BYTES} bytes`);
}

/** Cuts lines into fields at colons, and the list field at commas. */
class Fields {
  readonly #bytes = Buffer.allocUnsafeSlow(PIECE_BYTES);
  /** So many bytes of a field whose end has not been read are at the front. */
  #kept = 0;
  #index = 0;
  /** The field has not found room: what is left of it means nothing. */
  #tooLong = false;

  constructor(readonly search: Search) {}

  /** Where the next bytes of the file belong. */
  get room(): Buffer {
    return this.#bytes.subarray(this.#kept);
  }

  /** Takes as many bytes as were read into the room; false: nothing more is wanted. */
  take(count: number): boolean {
    const end = this.#kept + count;
    const list = this.search.listField;
    let start = 0;
    for (let at = this.#kept; at < end; at++) {
      const byte = this.#bytes[at];
      if (byte !== COLON && byte !== NEWLINE && (byte !== COMMA || this.#index !== list)) continue;
      this.#give(start, at);
      start = at + 1;
      if (byte === COLON) this.#index++;
      if (byte === NEWLINE && !this.#endLine()) return false;
    }
    this.#kept = end - start;
    if (this.#kept === PIECE_BYTES) {
      this.#tooLong = true;
      this.#kept = 0;
    } else this.#bytes.copyWithin(0, start, end);
    return true;
  }

  /** The last line may lack its end. */
  end(): void {
    this.#give(0, this.#kept);
    this.#endLine();
  }

  #endLine(): boolean {
    this.#index = 0;
    return this.search.lineEnd();
  }

  #give(from: number, to: number): void {
    let start = from;
    let end = to;
    while (start < end && this.#isSpace(start)) start++;
    while (end > start && this.#isSpace(end - 1)) end--;
    if (this.#tooLong) end = start;
    this.#tooLong = false;
    this.search.field(this.#index, this.#bytes, start, end);
  }

  #isSpace(at: number): boolean {
    return (this.#bytes[at] ?? 0) <= SPACE;
  }
}

function isEqual(wanted: Buffer | undefined, bytes: Buffer, start: number, end: number): boolean {
  if (wanted === undefined || wanted.length !== end - start) return false;
  return bytes.compare(wanted, 0, wanted.length, start, end) === 0;
}

/** undefined for what is no id. */
function idOf(bytes: Buffer, start: number, end: number): number | undefined {
  let id = 0;
  for (let at = start; at < end; at++) {
    const digit = (bytes[at] ?? 0) - ZERO;
    if (digit < 0 || digit > 9) return undefined;
    id = id * 10 + digit;
    if (id > MAX_ID) return undefined;
  }
  return end > start ? id : undefined;
}
