/**
 * Tables of the image and layer store (src/image, src/storage).
 *
 * A layer's row is what makes its directory a layer: it is written after the directory is whole and on
 * disk, and a directory without a row is an orphan. `layer_holds` counts references of everything that
 * is not an image: a container ("container/ID") or a pull that runs ("pull/ID").
 */
export const imageSchema = `
  CREATE TABLE layers (
    chain_id TEXT PRIMARY KEY,
    diff_id TEXT NOT NULL,
    directory TEXT NOT NULL UNIQUE,
    bytes INTEGER NOT NULL,
    inodes INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE layer_holds (
    holder TEXT NOT NULL,
    chain_id TEXT NOT NULL REFERENCES layers (chain_id),
    PRIMARY KEY (holder, chain_id)
  ) STRICT;
  CREATE INDEX layer_holds_by_layer ON layer_holds (chain_id);
  CREATE TABLE images (
    id TEXT PRIMARY KEY,
    config TEXT NOT NULL,
    annotations TEXT NOT NULL
  ) STRICT;
  CREATE TABLE image_layers (
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    chain_id TEXT NOT NULL REFERENCES layers (chain_id),
    PRIMARY KEY (image_id, position)
  ) STRICT;
  CREATE INDEX image_layers_by_layer ON image_layers (chain_id);
  CREATE TABLE image_names (
    name TEXT PRIMARY KEY,
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
  ) STRICT;
  CREATE INDEX image_names_by_image ON image_names (image_id);
`;

/**
 * Where an image came from: for checking signatures again, and for getting damaged layers again.
 * `name` is "HOST/REPOSITORY@DIGEST", or "archive:PATH".
 */
export const imageSourceSchema = `
  CREATE TABLE image_sources (
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (image_id, name)
  ) STRICT;
`;

/**
 * A daemon that starts reads `images` and parses nothing. What images say of themselves has a table of its
 * own, the long text last, since SQLite goes through a column to reach the next one. `run` is what
 * containers are made from (`RunConfig` of src/image); null marks a configuration that is damaged. That of
 * old rows is made here, by SQLite.
 */
export const imageDocumentSchema = `
  CREATE TABLE image_documents (
    image_id TEXT PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
    run TEXT,
    annotations TEXT NOT NULL,
    config TEXT NOT NULL
  ) STRICT;
  INSERT INTO image_documents (image_id, run, annotations, config) SELECT id, iif(
    json_valid(config),
    json_object(
      'Env', config -> '$.config.Env',
      'Entrypoint', config -> '$.config.Entrypoint',
      'Cmd', config -> '$.config.Cmd',
      'WorkingDir', config -> '$.config.WorkingDir',
      'User', config -> '$.config.User',
      'Volumes', json((SELECT json_group_array(key) FROM json_each(config, '$.config.Volumes'))),
      'StopSignal', config -> '$.config.StopSignal'
    ),
    NULL
  ), annotations, config FROM images;
  ALTER TABLE images ADD COLUMN user TEXT NOT NULL DEFAULT '';
  ALTER TABLE images ADD COLUMN config_bytes INTEGER NOT NULL DEFAULT 0;
  UPDATE images SET (user, config_bytes) = (
    SELECT coalesce(run ->> '$.User', ''), octet_length(config)
    FROM image_documents WHERE image_id = id
  );
  ALTER TABLE images DROP COLUMN config;
  ALTER TABLE images DROP COLUMN annotations;
  ALTER TABLE image_sources ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
  UPDATE image_sources SET pinned = 1 WHERE json_valid(record) AND record ->> '$.pinned';
`;
