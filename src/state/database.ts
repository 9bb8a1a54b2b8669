import { Database, SQLiteError } from "bun:sqlite";
import { closeSync, openSync, statSync } from "node:fs";
import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { migrations } from "./schema.ts";

/**
 * Opens (or makes, mode 0600) the database and brings its schema up to date.
 * WAL with synchronous=FULL: a committed row survives a power cut.
 *
 * @throws CribError FailedPrecondition: not a database, or made by a newer Crib.
 */
export function openDatabase(path: string): Database {
  closeSync(openSync(path, "a", 0o600));
  try {
    const database = new Database(path, { create: true, strict: true });
    database.run("PRAGMA journal_mode = WAL");
    database.run("PRAGMA synchronous = FULL");
    database.run("PRAGMA foreign_keys = ON");
    migrate(database);
    reserve(database, path);
    return database;
  } catch (error) {
    throw new CribError("FailedPrecondition", `database ${path}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** SQLite's own default is 1000 pages: more than is reserved. */
const CHECKPOINT_PAGES = 100;
const RESERVE_BYTES = 200 * 4096;

/**
 * Sees to it that pods and containers can be stopped and removed on a full disk: log and database have
 * room inside for the next writes. The log is overwritten from its start after each checkpoint, and the
 * pages of the dropped table stay in the database's list of free ones.
 */
function reserve(database: Database, path: string): void {
  database.run(`PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES}`);
  const wal = statSync(`${path}-wal`, { throwIfNoEntry: false });
  if (wal !== undefined && wal.size >= RESERVE_BYTES) return;
  try {
    database.run("CREATE TABLE IF NOT EXISTS reserve (space BLOB) STRICT");
    database.run(`INSERT INTO reserve VALUES (zeroblob(${RESERVE_BYTES}))`);
    database.run("DROP TABLE reserve");
    database.run("PRAGMA wal_checkpoint(RESTART)");
    // All those pages are in its cache now.
    database.run("PRAGMA shrink_memory");
  } catch (error) {
    // The disk is full already: what there is must do.
    log().warn({ path, error: messageOf(error) }, "no room to reserve for the database");
  }
}

/**
 * Runs what need not outlive a power cut, without waiting for the disk. The next durable write makes it
 * durable, too: the log is one.
 */
export function withoutDisk<T>(database: Database, statement: () => T): T {
  database.run("PRAGMA synchronous = NORMAL");
  try {
    return statement();
  } finally {
    database.run("PRAGMA synchronous = FULL");
  }
}

/** A failed statement's error: what a full disk is to the callers of CRI. */
export function databaseError(error: unknown): unknown {
  if (!(error instanceof SQLiteError) || error.code !== "SQLITE_FULL") return error;
  return new CribError("ResourceExhausted", `database: ${error.message}`, { cause: error });
}

function migrate(database: Database): void {
  const row = database.query("PRAGMA user_version").get() as { user_version: number };
  if (row.user_version > migrations.length) {
    throw new Error(
      `schema version ${row.user_version} is newer than this Crib's ${migrations.length}`,
    );
  }
  migrations.slice(row.user_version).forEach((sql, index) => {
    database.transaction(() => {
      database.run(sql);
      database.run(`PRAGMA user_version = ${row.user_version + index + 1}`);
    })();
  });
}
