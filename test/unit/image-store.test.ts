import { Database } from "bun:sqlite";
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ImageStore, type NewImage } from "../../src/image/image-store.ts";
import { parseConfig } from "../../src/image/manifest.ts";
import { openDatabase } from "../../src/state/database.ts";
import { migrations } from "../../src/state/schema.ts";

let directory: string;
let path: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "crib-image-store-"));
  path = join(directory, "crib.db");
});
afterEach(() => rmSync(directory, { recursive: true }));

const ID = `sha256:${"1".repeat(64)}`;
const CONFIG = JSON.stringify({
  config: { User: "7:8", Cmd: ["x"], Volumes: { "/a": {}, "/b": {} }, Labels: { l: "é" } },
  history: [{}],
  rootfs: { type: "layers", diff_ids: [] },
});
const RUN = {
  Env: [],
  Entrypoint: [],
  Cmd: ["x"],
  WorkingDir: "",
  User: "7:8",
  Volumes: ["/a", "/b"],
  StopSignal: "",
};

const image = (changes: Partial<NewImage> = {}): NewImage => ({
  id: ID,
  configJson: CONFIG,
  config: parseConfig(Buffer.from(CONFIG), "x").config,
  annotations: { note: "x" },
  layers: [],
  names: ["a.io/b:1"],
  source: { name: "a.io/b@x", digests: [], signatures: [], layers: [], pinned: true },
  ...changes,
});
const open = (database: Database) => new ImageStore(database, () => false);

test("the images of an older database are there, with all that containers need of them", () => {
  const old = new Database(path, { create: true, strict: true });
  for (const sql of migrations.slice(0, 2)) old.run(sql);
  old.run("PRAGMA user_version = 2");
  const insert = old.query("INSERT INTO images (id, config, annotations) VALUES (?, ?, ?)");
  insert.run(ID, CONFIG, '{"note":"x"}');
  insert.run("bare", '{"rootfs":{"type":"layers","diff_ids":null}}', "{}");
  insert.run("damaged", "{", "{}");
  const source = old.query("INSERT INTO image_sources (image_id, name, record) VALUES (?, ?, ?)");
  source.run(ID, "archive:/x", JSON.stringify({ ...image().source, name: undefined }));
  source.run("bare", "a.io/b@x", "damaged");
  old.close();

  const store = open(openDatabase(path));
  expect(
    store
      .list()
      .map(({ id }) => id)
      .toSorted(),
  ).toEqual(["bare", ID]);
  const sizeBytes = Buffer.byteLength(CONFIG);
  const annotations = { note: "x" };
  expect(store.get(ID)).toMatchObject({ user: "7:8", sizeBytes, annotations, pinned: true });
  expect(store.documents.run(ID)).toEqual(RUN);
  expect(store.sources(ID, "archive:")).toMatchObject([{ name: "archive:/x", pinned: true }]);
  expect(store.sources(ID, "a.io/")).toEqual([]);
  expect(store.get("bare")).toMatchObject({ user: "", pinned: false });
  expect(store.documents.run("bare")).toEqual({ ...RUN, User: "", Cmd: [], Volumes: [] });
});

test("a start reads no configuration; one that is damaged is told when it is wanted, and mended by a pull", () => {
  const database = openDatabase(path);
  open(database).add(image());
  database.run("UPDATE image_documents SET config = '{', run = '{'");
  const store = open(database);
  expect(store.list()).toMatchObject([{ id: ID, user: "7:8" }]);
  const damaged = expect.objectContaining({ code: "DataLoss" });
  expect(store.documents.isReadable(ID)).toBe(false);
  expect(() => store.documents.config(ID)).toThrow(damaged as unknown as Error);
  expect(() => store.documents.run(ID)).toThrow(`image ${ID}: its run in the database is damaged`);
  store.add(image());
  expect(store.documents.isReadable(ID)).toBe(true);
  expect(store.documents.config(ID)).toMatchObject({ User: "7:8", Labels: { l: "é" } });
  expect(store.documents.run(ID)).toEqual(RUN);
});

test("annotations of 4 KiB are kept in memory, more are read when they are asked for", () => {
  const database = openDatabase(path);
  const store = open(database);
  const short = { note: "x".repeat(4000) };
  expect(store.add(image({ annotations: short })).annotations).toEqual(short);
  const long = { note: "x".repeat(5000) };
  expect(store.add(image({ annotations: long })).annotations).toEqual({});
  expect(store.documents.annotations(ID)).toEqual(long);
});
