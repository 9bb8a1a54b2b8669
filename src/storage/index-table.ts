/**
 * What a layer must hold, by path: its list of files (layer-index.ts) read to the end. A layer may have
 * millions of files, so this is a table of SQLite's on disk, of which a few megabytes are in memory.
 */
import { Database } from "bun:sqlite";
import * as v from "valibot";
import { type IndexLine, type IndexRecord, recordSchema, xattrsSchema } from "./layer-index.ts";

const CACHE_KIBIBYTES = 8 * 1024;
/** As Linux. */
const SYMLINK_LIMIT = 40;

/** A path without a record is only on the way to others. */
export interface ExpectedFile {
  path: string;
  record: IndexRecord | undefined;
  /** The CRC-32 of the values that it was given; lists of older versions have none. */
  xattrs: Readonly<Record<string, number>>;
}

interface Row {
  path: string;
  record: string | null;
  xattrs: string | null;
}

export class IndexTable {
  readonly #database = new Database(":memory:");
  readonly #has;
  readonly #get;
  readonly #put;
  readonly #take;
  #symlinks = false;
  /** The last directory that was asked for, as the list writes it and where that is. */
  #parent = { written: "", real: "" };

  /** Its file is in $SQLITE_TMPDIR, without a name. */
  constructor() {
    const db = this.#database;
    db.run("PRAGMA temp_store = FILE");
    db.run(`PRAGMA temp.cache_size = -${CACHE_KIBIBYTES}`);
    db.run("PRAGMA temp.journal_mode = OFF");
    db.run(
      "CREATE TEMP TABLE files (path TEXT PRIMARY KEY, record TEXT, xattrs TEXT) WITHOUT ROWID",
    );
    db.run("INSERT INTO files (path) VALUES ('')");
    this.#has = db.query<{ there: number }, [string]>("SELECT 1 there FROM files WHERE path = ?");
    this.#get = db.query<Row, [string]>("SELECT * FROM files WHERE path = ?");
    this.#put = db.query<never, [string, string | null, string | null]>(
      "INSERT OR REPLACE INTO files (path, record, xattrs) VALUES (?, ?, ?)",
    );
    // "0" follows "/".
    this.#take = db.query<never, [string, string, string]>(
      "DELETE FROM files WHERE path = ? OR path > ? || '/' AND path < ? || '0'",
    );
  }

  /** Takes all lines. */
  read(lines: Iterable<IndexLine>): void {
    this.#database.transaction(() => {
      for (const line of lines) this.#apply(line);
    })();
  }

  has(path: string): boolean {
    return this.#has.get(path) !== null;
  }

  /** All paths, a directory before what is in it; "" is the layer's root. */
  *[Symbol.iterator](): Generator<ExpectedFile, void, void> {
    const rows = this.#database.query<Row, []>("SELECT * FROM files ORDER BY path").iterate();
    for (const row of rows) yield toFile(row);
  }

  close(): void {
    this.#database.close();
  }

  #apply(line: IndexLine): void {
    const path = this.#real(line[1]);
    const row = this.#get.get(path);
    if (line[0] === "+") this.#place(path, line[2], row);
    else if (line[0] === "-") {
      this.#take.run(path, path, path);
      this.#parent = { written: "", real: "" };
    } else {
      const xattrs = row === null ? {} : toFile(row).xattrs;
      this.#put.run(path, row?.record ?? null, JSON.stringify({ ...xattrs, ...line[2] }));
    }
  }

  /** A hard link is what it was linked to: that may be replaced later, and the link stays what it is. */
  #place(path: string, record: IndexRecord, row: Row | null): void {
    const target = record.kind === "hardlink" ? this.#get.get(this.#real(record.target)) : null;
    const xattrs = target?.xattrs ?? row?.xattrs ?? null;
    this.#put.run(path, target?.record ?? JSON.stringify(record), xattrs);
    if (record.kind === "symlink") this.#symlinks = true;
    this.#parent = record.kind === "symlink" ? { written: "", real: "" } : this.#parent;
  }

  /** Where a path is whose directories may be symlinks, as they are at this line. */
  #real(path: string): string {
    const end = path.lastIndexOf("/");
    if (!this.#symlinks || end < 0) return path;
    const written = path.slice(0, end);
    if (written !== this.#parent.written) {
      this.#parent = { written, real: this.#follow(written.split("/")).join("/") };
    }
    const name = path.slice(end + 1);
    return this.#parent.real === "" ? name : `${this.#parent.real}/${name}`;
  }

  #follow(parts: readonly string[]): string[] {
    const left = [...parts].reverse();
    const done: string[] = [];
    let links = 0;
    for (let part = left.pop(); part !== undefined; part = left.pop()) {
      if (part === "" || part === ".") continue;
      if (part === "..") {
        done.pop();
        continue;
      }
      const row = this.#get.get([...done, part].join("/"));
      const record = row === null ? undefined : toFile(row).record;
      if (record?.kind !== "symlink") done.push(part);
      else if (++links > SYMLINK_LIMIT) throw new Error("symlinks lead in a circle");
      else {
        if (record.target.startsWith("/")) done.length = 0;
        left.push(...record.target.split("/").reverse());
      }
    }
    return done;
  }
}

function toFile({ path, record, xattrs }: Row): ExpectedFile {
  return {
    path,
    record: record === null ? undefined : v.parse(recordSchema, JSON.parse(record)),
    xattrs: xattrs === null ? {} : v.parse(xattrsSchema, JSON.parse(xattrs)),
  };
}
