/**
 * The layer store: one directory per unpacked layer, counted references, nothing half-made.
 *
 * `<root>/layers/<short name>` is filled first; its row in SQLite is written when it is whole and on
 * disk. Until then it is an orphan, which `open` deletes. Names are short so that overlayfs's option
 * string (4095 bytes) holds several hundred of them.
 */
import type { Database } from "bun:sqlite";
import { randomBytes } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readdirSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { withoutDisk } from "../state/database.ts";
import { removeTree } from "./remove-tree.ts";
import { sizeOf, sizeOfFiles, type Usage } from "./usage.ts";

/** A committed layer. `bytes` are those on disk (whole blocks). */
export interface Layer {
  chainId: string;
  diffId: string;
  /** Name below `LayerStore.directory`. */
  directory: string;
  bytes: number;
  inodes: number;
}

interface Row {
  chain_id: string;
  diff_id: string;
  directory: string;
  bytes: number;
  inodes: number;
}

const RETIRED = "retired:";
const NAME_BYTES = 6;

export class LayerStore {
  /** `<root>/layers`. */
  readonly directory: string;
  /** Lists of files, see layer-index.ts: named as the layers' directories. */
  readonly indexDirectory: string;
  readonly #database: Database;
  /** Directories that are no layers: they are being filled, or deleted. */
  readonly #others = new Map<string, Usage>();

  constructor(options: { root: string; database: Database }) {
    this.directory = join(options.root, "layers");
    this.#database = options.database;
    this.indexDirectory = join(options.root, "layer-index");
    mkdirSync(this.indexDirectory, { recursive: true, mode: 0o700 });
    // Nobody but root may reach the images' setuid programs from the host.
    mkdirSync(this.directory, { recursive: true, mode: 0o700 });
    chmodSync(this.directory, 0o700);
  }

  /**
   * Puts the store in order at start: pulls that were cut off lose their hold, and directories without
   * a row are deleted. A row without a directory stays: that layer is damaged (see `has`), and its images'
   * names and sources are what it can be repaired by.
   */
  async recover(): Promise<void> {
    this.#database.run("DELETE FROM layer_holds WHERE holder LIKE 'pull/%'");
    const unreferenced = this.#deleteUnreferenced();
    const kept = new Set(this.list().map(({ directory }) => directory));
    const there = [...readdirSync(this.directory), ...readdirSync(this.indexDirectory)];
    const gone = new Set([...unreferenced, ...there.filter((name) => !kept.has(name))]);
    await Promise.all([...gone].map((name) => this.discard(name)));
  }

  /** The directory of a layer, or of one that is being made. */
  path(name: string): string {
    return join(this.directory, name);
  }

  /** Its list of files. */
  indexFile(name: string): string {
    return join(this.indexDirectory, name);
  }

  list(): Layer[] {
    return (this.#database.query("SELECT * FROM layers").all() as Row[]).map(toLayer);
  }

  /**
   * What all of them take on disk, with their lists of files, and what those take that are being made or
   * deleted.
   */
  usage(): Usage {
    const usage = { bytes: 0, inodes: 0 };
    const lists = sizeOfFiles(this.indexDirectory);
    const own = sizeOf(this.directory);
    for (const { bytes, inodes } of [...this.list(), ...this.#others.values(), lists, own]) {
      usage.bytes += bytes;
      usage.inodes += inodes;
    }
    return usage;
  }

  get(chainId: string): Layer | undefined {
    const row = this.#database.query("SELECT * FROM layers WHERE chain_id = ?").get(chainId);
    return row === null ? undefined : toLayer(row as Row);
  }

  /** Whether a layer is there with its directory, which the repair of a file system may have taken. */
  has(chainId: string): boolean {
    const layer = this.get(chainId);
    return layer !== undefined && existsSync(this.path(layer.directory));
  }

  /** Makes an empty directory for a new layer; returns its name. */
  stage(): string {
    const name = randomBytes(NAME_BYTES).toString("hex");
    mkdirSync(join(this.directory, name), { mode: 0o755 });
    chmodSync(join(this.directory, name), 0o755);
    this.grow(name, sizeOf(join(this.directory, name)));
    return name;
  }

  /** What a staged directory takes on disk now. */
  grow(name: string, { bytes, inodes }: Usage): void {
    this.#others.set(name, { bytes, inodes });
  }

  /**
   * The staged directory, already synced to disk, becomes a layer that `holders` hold. It takes the place
   * of one that the layer may have: containers that are mounted on the old one keep it, and it goes, when
   * something is collected, after the last of them.
   */
  commit(layer: Layer, holders: Iterable<string>): void {
    this.#database.transaction(() => {
      const old = this.get(layer.chainId);
      if (old === undefined) this.#insert(layer);
      else this.#exchange(old, layer);
      for (const holder of holders) this.#insertHold(holder, layer.chainId);
    })();
    this.#others.delete(layer.directory);
  }

  /** As `commit`, for a layer that is there. */
  async replace(layer: Layer): Promise<void> {
    if (this.get(layer.chainId) === undefined) {
      throw new CribError("NotFound", `layer ${layer.chainId}: its images were removed`);
    }
    this.commit(layer, []);
    await this.collect();
  }

  /** Whether it is the old directory of a layer that was replaced. */
  isRetired(chainId: string): boolean {
    return chainId.startsWith(RETIRED);
  }

  /** Deletes a directory that is not (or no longer) a layer. Failures are logged; `recover` retries. */
  async discard(name: string): Promise<void> {
    try {
      await removeTree(join(this.directory, name));
      await rm(this.indexFile(name), { force: true });
      this.#others.delete(name);
    } catch (error) {
      log().warn(
        { layer: name, error: messageOf(error) },
        "a layer's directory is not deleted yet",
      );
    }
  }

  /** Holds a layer if it is there (see `has`); returns whether it is. */
  hold(holder: string, chainId: string): boolean {
    const hold = this.#database.transaction(() => {
      const there = this.has(chainId);
      if (there) this.#insertHold(holder, chainId);
      return there;
    });
    return withoutDisk(this.#database, hold);
  }

  /**
   * Holds all of the layers or none of them; returns them in the given order. Who holds them is written
   * durably after it, if at all.
   *
   * @throws CribError NotFound when one is not there (its image was removed meanwhile).
   */
  holdAll(holder: string, chainIds: readonly string[]): Layer[] {
    const hold = this.#database.transaction(() =>
      chainIds.map((chainId) => {
        const layer = this.get(chainId);
        if (layer === undefined) {
          throw new CribError("NotFound", `layer ${chainId}: the image it belongs to was removed`);
        }
        this.#insertHold(holder, chainId);
        return layer;
      }),
    );
    return withoutDisk(this.#database, hold);
  }

  /** Gives up all that `holder` holds and deletes what nothing needs any more. */
  async release(holder: string): Promise<void> {
    const statement = this.#database.query("DELETE FROM layer_holds WHERE holder = ?");
    withoutDisk(this.#database, () => statement.run(holder));
    await this.collect();
  }

  /** Holders whose name begins with `prefix`. */
  holders(prefix: string): string[] {
    const rows = this.#database
      .query("SELECT DISTINCT holder FROM layer_holds WHERE substr(holder, 1, ?) = ?")
      .all(prefix.length, prefix) as Array<{ holder: string }>;
    return rows.map(({ holder }) => holder);
  }

  /** Deletes the layers that neither an image nor a holder refers to. */
  async collect(): Promise<void> {
    await Promise.all(this.#deleteUnreferenced().map((name) => this.discard(name)));
  }

  #insert({ chainId, diffId, directory, bytes, inodes }: Layer): void {
    this.#database
      .query(
        "INSERT INTO layers (chain_id, diff_id, directory, bytes, inodes) VALUES (?, ?, ?, ?, ?)",
      )
      .run(chainId, diffId, directory, bytes, inodes);
  }

  /** The old directory gets a row of its own, which those containers hold that have held it until now. */
  #exchange(old: Layer, { chainId, directory, bytes, inodes }: Layer): void {
    const retired = `${RETIRED}${old.directory}`;
    this.#database
      .query("UPDATE layers SET directory = ?, bytes = ?, inodes = ? WHERE chain_id = ?")
      .run(directory, bytes, inodes, chainId);
    this.#insert({ ...old, chainId: retired });
    this.#database
      .query(
        `INSERT INTO layer_holds (holder, chain_id) SELECT holder, ? FROM layer_holds
         WHERE chain_id = ? AND substr(holder, 1, 10) = 'container/'`,
      )
      .run(retired, chainId);
  }

  #insertHold(holder: string, chainId: string): void {
    this.#database
      .query("INSERT OR IGNORE INTO layer_holds (holder, chain_id) VALUES (?, ?)")
      .run(holder, chainId);
  }

  #deleteUnreferenced(): string[] {
    const rows = this.#database
      .query(
        `DELETE FROM layers WHERE
           NOT EXISTS (SELECT 1 FROM image_layers i WHERE i.chain_id = layers.chain_id) AND
           NOT EXISTS (SELECT 1 FROM layer_holds h WHERE h.chain_id = layers.chain_id)
         RETURNING directory, bytes, inodes`,
      )
      .all() as Array<Usage & { directory: string }>;
    for (const { directory, ...usage } of rows) this.grow(directory, usage);
    return rows.map(({ directory }) => directory);
  }
}

function toLayer(row: Row): Layer {
  return {
    chainId: row.chain_id,
    diffId: row.diff_id,
    directory: row.directory,
    bytes: row.bytes,
    inodes: row.inodes,
  };
}
