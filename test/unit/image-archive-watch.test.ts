import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  appendFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ArchiveWatch } from "../../src/image/archive-watch.ts";

let base: string;
let watched: string;
let changed: string[];
let watch: ArchiveWatch | undefined;
const at = (name: string) => join(watched, name);

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "crib-watch-"));
  watched = join(base, "preload");
  mkdirSync(watched);
  changed = [];
});
afterEach(() => {
  watch?.close();
  rmSync(base, { recursive: true });
});

function start(limit?: number): ArchiveWatch {
  watch = new ArchiveWatch(watched, (name) => changed.push(name), limit);
  watch.start();
  return watch;
}

function layout(path: string): void {
  mkdirSync(join(path, "blobs/sha256"), { recursive: true });
  writeFileSync(join(path, "blobs/sha256/1"), "");
}

/** Waits for a change that has this name; forgets those before. */
async function change(name: string, action: () => void): Promise<void> {
  changed.length = 0;
  action();
  while (!changed.includes(name)) await Bun.sleep(2);
}

async function watches(count: number): Promise<void> {
  while (watch?.size !== count) await Bun.sleep(2);
}

test("what is written deep in a layout is a change of the layout, be it old, new, renamed or made again", async () => {
  layout(at("old"));
  start();
  await change("old", () => appendFileSync(at("old/blobs/sha256/1"), "x"));
  await change("file.tar", () => writeFileSync(at("file.tar"), "x"));
  await change("new", () => layout(at("new")));
  // All of its directories, before anything else happens in it.
  await watches(7);
  await change("new", () => appendFileSync(at("new/blobs/sha256/1"), "x"));
  await change("renamed", () => renameSync(at("new"), at("renamed")));
  await watches(7);
  await change("renamed", () => appendFileSync(at("renamed/blobs/sha256/1"), "x"));
  await change("old", () => {
    rmSync(at("old"), { recursive: true });
    layout(at("old"));
  });
  await watches(7);
  await change("old", () => appendFileSync(at("old/blobs/sha256/1"), "x"));
});

test("directories that are no part of a layout, hidden ones and links in a circle are not watched", () => {
  layout(at(".copying"));
  mkdirSync(at("layout/other/deep"), { recursive: true });
  mkdirSync(at("layout/blobs/sha256/deep/er"), { recursive: true });
  symlinkSync("..", at("layout/blobs/circle"));
  writeFileSync(at("blobs"), "a file");
  symlinkSync("nowhere", at("dangling"));
  // The directory, layout, its blobs, sha256, and the circle as one more.
  expect(start().size).toBe(5);
});

test("no more directories than the limit are watched, and removed ones make room", async () => {
  for (let index = 0; index < 20; index++) layout(at(`layout-${index}`));
  const { size } = start(10);
  expect(size).toBe(10);
  for (let index = 0; index < 20; index++) {
    await change(`layout-${index}`, () => rmSync(at(`layout-${index}`), { recursive: true }));
  }
  await watches(1);
  await change("late", () => layout(at("late")));
  await watches(4);
});

test("a directory that is not there is an error; nothing comes after the end", async () => {
  const none = new ArchiveWatch(join(base, "none"), () => undefined);
  expect(() => none.start()).toThrow("ENOENT");
  const first = start();
  first.close();
  const names: string[] = [];
  watch = new ArchiveWatch(watched, (name) => names.push(name));
  watch.start();
  cpSync("/etc/hostname", at("a"));
  while (names.length === 0) await Bun.sleep(2);
  expect(changed).toEqual([]);
});
