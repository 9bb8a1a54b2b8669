/** What images say of themselves: read from SQLite when somebody asks. */
import type { Database } from "bun:sqlite";
import * as v from "valibot";
import { strings, text } from "../config/go-json.ts";
import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { type ImageConfig, type RunConfig, readConfig } from "./manifest.ts";

/** Also of images that older daemons took, which may say more than is taken now. */
const runSchema = v.object({
  Env: strings,
  Entrypoint: strings,
  Cmd: strings,
  WorkingDir: text,
  User: text,
  Volumes: strings,
  StopSignal: text,
});
const annotationsSchema = v.record(v.string(), v.string());

/** All take an image's id and throw a `CribError` DataLoss when its row is damaged. */
export class ImageDocuments {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** What containers of the image are made from. */
  run(id: string): RunConfig {
    return this.#read(id, "run", (json) => v.parse(runSchema, JSON.parse(json)));
  }

  /** Whether all that containers and statuses need of it can be read. */
  isReadable(id: string): boolean {
    try {
      this.run(id);
      this.annotations(id);
      return true;
    } catch (error) {
      log().error({ imageId: id, error: messageOf(error) }, "an image has to be pulled again");
      return false;
    }
  }

  /** What the image says of itself. */
  config(id: string): ImageConfig {
    return this.#read(id, "config", (json) => readConfig(JSON.parse(json), `image ${id}`).config);
  }

  /** JSON, without the byte order mark that it may have had. */
  configJson(id: string): Uint8Array {
    const row = this.#database
      .query<{ json: Uint8Array }, [string]>(
        "SELECT CAST(config AS BLOB) AS json FROM image_documents WHERE image_id = ?",
      )
      .get(id);
    if (row === null) throw new CribError("DataLoss", `image ${id}: it has no configuration`);
    return row.json;
  }

  /** All of them, also those that are too long for lists. */
  annotations(id: string): Record<string, string> {
    return this.#read(id, "annotations", parseAnnotations);
  }

  #read<T>(id: string, column: "run" | "config" | "annotations", parse: (json: string) => T): T {
    const row = this.#database
      .query(`SELECT ${column} AS json FROM image_documents WHERE image_id = ?`)
      .get(id);
    try {
      return parse((row as { json: string }).json);
    } catch (error) {
      const why = `its ${column} in the database is damaged: pull it again`;
      throw new CribError("DataLoss", `image ${id}: ${why}`, { cause: error });
    }
  }
}

export function parseAnnotations(json: string): Record<string, string> {
  return v.parse(annotationsSchema, JSON.parse(json));
}
