import { Database } from "bun:sqlite";
import { closeSync, openSync } from "node:fs";
import { CribError, messageOf } from "../error.ts";
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
    return database;
  } catch (error) {
    throw new CribError("FailedPrecondition", `database ${path}: ${messageOf(error)}`, {
      cause: error,
    });
  }
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
