/** The images that are there: in memory for reading, written through to SQLite. */
import type { Database } from "bun:sqlite";
import * as v from "valibot";
import { ARCHIVE_TRANSPORTS, type ArchiveTransport } from "../config/policy.ts";
import { messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { ImageDocuments, parseAnnotations } from "./image-documents.ts";
import { type ImageConfig, runConfigOf } from "./manifest.ts";
import type { Signature } from "./signature.ts";

/** Of those that all images together keep in memory, and that lists tell: of each so many bytes of JSON. */
const LISTED_ANNOTATIONS_BYTES = 4096;

/** An image that is whole: the part of it that is kept in memory. `ImageDocuments` has the rest. */
export interface Image {
  /** "sha256:…": the digest of its configuration. */
  id: string;
  /** "docker.io/library/busybox:latest", sorted. */
  repoTags: string[];
  /** "docker.io/library/busybox@sha256:…", sorted; the digest is of what the name led to: an index or manifest. */
  repoDigests: string[];
  /** What it takes on disk: its layers unpacked, and its configuration. As CRI-O counts. */
  sizeBytes: number;
  /** As the configuration names it: "", "user", "uid", "user:group", "uid:gid". */
  user: string;
  /** ChainIDs, base first. */
  layers: string[];
  /** Never garbage-collected by the kubelet (image.pinned). */
  pinned: boolean;
  /** Of the manifest, where they are short; see `ImageDocuments.annotations`. */
  annotations: Record<string, string>;
}

/** Where an image came from. */
export interface ImageSource {
  /** "HOST/REPOSITORY@DIGEST", or "archive:PATH". */
  name: string;
  /** Of the manifest, and of the indexes that led to it. */
  digests: string[];
  /** Those that were there. */
  signatures: Signature[];
  /** Compressed, base first. */
  layers: Array<{ mediaType: string; digest: string; size: number }>;
  /** Of an archive that pins, once all of its images are there: changes when the file does. */
  stamp?: string;
  /** Of an archive: what policies call it. Those of older daemons do not say. */
  transport?: ArchiveTransport;
  /** The image is pinned for as long as this source is known. */
  pinned?: boolean;
}

/** What a pull hands over. */
export interface NewImage {
  id: string;
  configJson: string;
  config: ImageConfig;
  annotations: Record<string, string>;
  /** ChainIDs, base first; all committed and held. */
  layers: string[];
  /** Names that shall lead to this image; one that led to another is taken from it. */
  names: string[];
  source: ImageSource;
}

interface Row {
  user: string;
  config_bytes: number;
  readable: 0 | 1;
  /** Null: there are too many for lists. */
  annotations: string | null;
}

const sourceSchema = v.object({
  digests: v.array(v.string()),
  signatures: v.array(
    v.variant("kind", [
      v.object({ kind: v.literal("simple"), message: v.string() }),
      v.object({
        kind: v.literal("sigstore"),
        payload: v.string(),
        signature: v.string(),
        certificate: v.optional(v.string()),
        chain: v.optional(v.string()),
        bundle: v.optional(v.string()),
      }),
    ]),
  ),
  layers: v.array(v.object({ mediaType: v.string(), digest: v.string(), size: v.number() })),
  stamp: v.optional(v.string()),
  transport: v.optional(v.picklist(ARCHIVE_TRANSPORTS)),
  pinned: v.optional(v.boolean()),
});

export class ImageStore {
  readonly documents: ImageDocuments;
  readonly #database: Database;
  readonly #images = new Map<string, Image>();
  readonly #names = new Map<string, string>();
  readonly #isPinned: (image: Image) => boolean;

  constructor(database: Database, isPinned: (image: Image) => boolean) {
    this.#database = database;
    this.documents = new ImageDocuments(database);
    this.#isPinned = isPinned;
    for (const { id } of database.query("SELECT id FROM images").all() as Array<{ id: string }>) {
      this.#load(id);
    }
  }

  list(): Image[] {
    return [...this.#images.values()];
  }

  get(id: string): Image | undefined {
    return this.#images.get(id);
  }

  byName(name: string): Image | undefined {
    return this.#images.get(this.#names.get(name) ?? "");
  }

  /** Adds an image, or names to one that is there. */
  add(image: NewImage): Image {
    const robbed = new Set<string>();
    this.#database.transaction(() => {
      const known = this.#database.query("SELECT 1 FROM images WHERE id = ?").get(image.id);
      this.#insertImage(image);
      if (known === null) this.#insertLayers(image);
      this.#insertSource(image);
      for (const name of image.names) {
        const before = this.#names.get(name);
        if (before !== undefined && before !== image.id) robbed.add(before);
        this.#database
          .query(
            `INSERT INTO image_names (name, image_id) VALUES (?, ?)
             ON CONFLICT (name) DO UPDATE SET image_id = excluded.image_id`,
          )
          .run(name, image.id);
      }
    })();
    for (const id of robbed) this.#load(id);
    const added = this.#load(image.id);
    if (added === undefined) throw new Error(`image ${image.id} is not readable`);
    return added;
  }

  /** Deletes an image with all of its names; its layers are the layer store's to collect. */
  delete(id: string): void {
    this.#database.query("DELETE FROM images WHERE id = ?").run(id);
    this.#forget(id);
  }

  /**
   * Where the image came from, the newest first; those whose names begin with `prefix`. A row that cannot
   * be read is left out.
   */
  sources(id: string, prefix = ""): ImageSource[] {
    const rows = this.#database
      .query(
        `SELECT name, record FROM image_sources
         WHERE image_id = $id AND substr(name, 1, length($prefix)) = $prefix ORDER BY rowid DESC`,
      )
      .all({ id, prefix }) as Array<{ name: string; record: string }>;
    return rows.flatMap(({ name, record }) => {
      const read = v.safeParse(v.pipe(v.string(), v.parseJson(), sourceSchema), record);
      return read.success ? [{ name, ...read.output }] : [];
    });
  }

  /**
   * All that an archive holds is imported, and is what it pins. In one transaction: after a crash
   * either the archive is imported again, or nothing is left to do.
   */
  completeSource(name: string, stamp: string, ids: readonly string[]): void {
    this.#database.transaction(() => {
      this.forgetSource(name, ids);
      this.#database
        .query("UPDATE image_sources SET record = json_set(record, '$.stamp', ?) WHERE name = ?")
        .run(stamp, name);
    })();
  }

  /** Forgets a source of all images but `kept`, and that it pinned them. */
  forgetSource(name: string, kept: readonly string[]): void {
    const rows = this.#database
      .query(
        `DELETE FROM image_sources WHERE name = ? AND image_id NOT IN (SELECT value FROM json_each(?))
         RETURNING image_id`,
      )
      .all(name, JSON.stringify(kept)) as Array<{ image_id: string }>;
    for (const { image_id } of rows) this.#load(image_id);
  }

  /** Names of sources that begin with `prefix`, with their stamps; "" where an image has none to read. */
  sourceStamps(prefix: string): Map<string, string> {
    const rows = this.#database
      .query(
        `SELECT name, min(iif(json_valid(record), coalesce(record ->> '$.stamp', ''), '')) AS stamp
         FROM image_sources WHERE substr(name, 1, length($prefix)) = $prefix GROUP BY name`,
      )
      .all({ prefix }) as Array<{ name: string; stamp: string }>;
    return new Map(rows.map(({ name, stamp }) => [name, stamp]));
  }

  #insertSource({ id, source: { name, ...record } }: NewImage): void {
    this.#database
      .query(
        "INSERT OR REPLACE INTO image_sources (image_id, name, record, pinned) VALUES (?, ?, ?, ?)",
      )
      .run(id, name, JSON.stringify(record), record.pinned === true ? 1 : 0);
  }

  /** Another manifest may have led to the same configuration: the newest one's annotations count. */
  #insertImage({ id, configJson, config, annotations }: NewImage): void {
    const bytes = Buffer.byteLength(configJson);
    this.#database
      .query(
        `INSERT INTO images (id, user, config_bytes) VALUES (?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET user = excluded.user, config_bytes = excluded.config_bytes`,
      )
      .run(id, config.User, bytes);
    const run = JSON.stringify(runConfigOf(config));
    this.#database
      .query(
        `INSERT OR REPLACE INTO image_documents (image_id, run, annotations, config)
         VALUES (?, ?, ?, ?)`,
      )
      .run(id, run, JSON.stringify(annotations), configJson);
  }

  #insertLayers(image: NewImage): void {
    image.layers.forEach((chainId, position) => {
      this.#database
        .query("INSERT INTO image_layers (image_id, position, chain_id) VALUES (?, ?, ?)")
        .run(image.id, position, chainId);
    });
  }

  #forget(id: string): void {
    this.#images.delete(id);
    for (const [name, image] of this.#names) if (image === id) this.#names.delete(name);
  }

  /** Reads one image from the database. One that cannot be read is left alone and not listed. */
  #load(id: string): Image | undefined {
    this.#forget(id);
    try {
      const image = this.#read(id);
      if (image === undefined) return undefined;
      this.#images.set(id, image);
      for (const name of [...image.repoTags, ...image.repoDigests]) this.#names.set(name, id);
      return image;
    } catch (error) {
      log().error({ imageId: id, error: messageOf(error) }, "a damaged image row is left alone");
      return undefined;
    }
  }

  #read(id: string): Image | undefined {
    const row = this.#database
      .query(
        `SELECT user, config_bytes, run IS NOT NULL AS readable,
           iif(octet_length(annotations) <= ${LISTED_ANNOTATIONS_BYTES}, annotations, NULL) AS annotations
         FROM images LEFT JOIN image_documents ON image_id = id WHERE id = ?`,
      )
      .get(id) as Row | null;
    if (row === null) return undefined;
    if (row.readable === 0) throw new Error("its configuration is no JSON");
    const layers = this.#database
      .query(
        `SELECT chain_id, bytes FROM image_layers JOIN layers USING (chain_id)
         WHERE image_id = ? ORDER BY position`,
      )
      .all(id) as Array<{ chain_id: string; bytes: number }>;
    const names = this.#database
      .query("SELECT name FROM image_names WHERE image_id = ? ORDER BY name")
      .all(id) as Array<{ name: string }>;
    const pinned = this.#database
      .query("SELECT 1 FROM image_sources WHERE image_id = ? AND pinned")
      .get(id);
    const image: Image = {
      id,
      repoTags: names.map(({ name }) => name).filter((name) => !name.includes("@")),
      repoDigests: names.map(({ name }) => name).filter((name) => name.includes("@")),
      sizeBytes: layers.reduce((sum, { bytes }) => sum + bytes, row.config_bytes),
      user: row.user,
      layers: layers.map(({ chain_id }) => chain_id),
      pinned: false,
      annotations: row.annotations === null ? {} : parseAnnotations(row.annotations),
    };
    return { ...image, pinned: pinned !== null || this.#isPinned(image) };
  }
}
