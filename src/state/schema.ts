import { imageDocumentSchema, imageSchema, imageSourceSchema } from "./image-schema.ts";

/**
 * The schema's history: element n brings a database from version n to n + 1 (`PRAGMA user_version`).
 * Only ever append; a database that is newer than this list is refused.
 *
 * A pod's or container's row is also its journal entry: it is written, in phase "creating", before
 * anything is made, and all that is made has a name derived from the id, so that recovery can undo it.
 */
export const migrations: readonly string[] = [
  `
  CREATE TABLE pods (
    id TEXT PRIMARY KEY,
    config BLOB NOT NULL,
    record TEXT NOT NULL
  ) STRICT;
  CREATE TABLE containers (
    id TEXT PRIMARY KEY,
    pod_id TEXT NOT NULL REFERENCES pods (id),
    config BLOB NOT NULL,
    record TEXT NOT NULL
  ) STRICT;
  CREATE INDEX containers_by_pod ON containers (pod_id);
  ${imageSchema}
  `,
  imageSourceSchema,
  imageDocumentSchema,
];
