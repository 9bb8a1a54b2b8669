/** A check of layers with very many files: what it holds in memory. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { linkSync, mkdirSync, mkdtempSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ChildCommand } from "../../src/image/confined-child.ts";
import { checkConfinement, checkLayers } from "../../src/image/layer-checker.ts";
import { indexLine } from "../../src/storage/layer-index.ts";
import { confined } from "../fixtures/image-store.ts";

/** A tenth of what a layer may have (image.max_layer_entries). */
const MANY = 200_000;
const FEW = 400;
const PER_DIRECTORY = 50_000;
/** Links that a file may have on ext4, and some to spare. */
const PER_INODE = 50_000;
/** With a tree of all entries in memory it is 120 MB. */
const GROWTH_LIMIT_BYTES = 64 * 1024 * 1024;

const TIMEOUT_MS = 300_000;

let directory: string;
const layers = () => join(directory, "layers");
const indexes = () => join(directory, "indexes");

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "crib-large-"));
  mkdirSync(layers());
  mkdirSync(indexes());
  makeLayer("few", FEW);
  makeLayer("many", MANY);
}, TIMEOUT_MS);
afterAll(() => rmSync(directory, { recursive: true, force: true }), TIMEOUT_MS);

const parentOf = (index: number) => `directory-${Math.floor(index / PER_DIRECTORY)}`;
const nameOf = (index: number) => `a-file-with-a-name-of-usual-length-${index}`;

/** Of empty files, most of them links to an earlier one: what costs memory is their names. */
function makeLayer(layer: string, files: number): void {
  const lines = [];
  let source = "";
  mkdirSync(join(layers(), layer));
  const mode = 0o755;
  for (let index = 0; index < files; index++) {
    const [parent, name] = [parentOf(index), nameOf(index)];
    const path = join(layers(), layer, parent, name);
    if (index % PER_DIRECTORY === 0) {
      mkdirSync(join(layers(), layer, parent), { mode });
      lines.push(indexLine([parent], { kind: "directory", mode, uid: 0, gid: 0 }));
    }
    if (index % PER_INODE === 0) {
      source = path;
      writeFileSync(path, "", { mode: 0o644 });
    } else linkSync(source, path);
    const record = { kind: "file", mode: 0o644, uid: 0, gid: 0, size: 0, crc: 0 } as const;
    lines.push(indexLine([parent, name], record));
  }
  writeFileSync(join(indexes(), layer), lines.join(""));
}

const SOURCE = join(import.meta.dir, "../../src/cli/check-layers.ts");
/** The child, which says at its end how much memory it had at most: wait4(2) would tell its parent's. */
const SCRIPT = `
  import { openSync, readSync } from "node:fs";
  import { checkLayers } from ${JSON.stringify(SOURCE)};
  // In its new root there is no /proc.
  const status = openSync("/proc/self/status", "r");
  checkLayers(process.argv.slice(1));
  const text = Buffer.alloc(10_000);
  readSync(status, text);
  console.log(/^VmHWM:\\s*(\\d+) kB/m.exec(text.toString())[1]);
`;

async function check(layer: string): Promise<{ problems: string[]; peakBytes: number }> {
  const confinement = checkConfinement({ layers: layers(), indexes: indexes() });
  const child = Bun.spawn({
    cmd: confined([process.execPath, "-e", SCRIPT, "--"])(confinement, ["--root", layers()]),
    env: { SQLITE_TMPDIR: "/indexes" },
    stdio: [Buffer.from(layer), "pipe", "inherit"],
  });
  const [line, peak] = (await new Response(child.stdout).text()).split("\n");
  const { problems } = JSON.parse(line ?? "") as { problems: string[] };
  return { problems, peakBytes: Number(peak) * 1024 };
}

test(
  "a layer of very many files is checked in the memory that a small one takes",
  async () => {
    const few = await check("few");
    const many = await check("many");
    expect([few.problems, many.problems]).toEqual([[], []]);
    expect(many.peakBytes - few.peakBytes).toBeLessThan(GROWTH_LIMIT_BYTES);
  },
  TIMEOUT_MS,
);

test(
  "what is wrong with one of its files is found, and with the first and the last",
  async () => {
    const at = (index: number) => join(layers(), "many", parentOf(index), nameOf(index));
    unlinkSync(at(0));
    writeFileSync(join(layers(), "many", parentOf(MANY / 2), "additional"), "");
    unlinkSync(at(MANY - 1));
    writeFileSync(at(MANY - 1), "longer", { mode: 0o644 });
    expect((await check("many")).problems).toEqual([
      `"${parentOf(0)}/${nameOf(0)}": is missing`,
      `"${parentOf(MANY / 2)}/additional": is no part of the layer`,
      `"${parentOf(MANY - 1)}/${nameOf(MANY - 1)}": has 6 bytes, not 0`,
    ]);
  },
  TIMEOUT_MS,
);

test("a check that cannot be made is an error, and finds no damage", async () => {
  const options = { layers: layers(), indexes: indexes(), fast: true };
  const run = async (child: ChildCommand, signal = new AbortController().signal) => {
    const checked = [];
    for await (const layer of checkLayers(["few"], { ...options, child }, signal)) {
      checked.push(layer);
    }
    return checked;
  };
  expect(await run(confined())).toEqual([{ name: "few", problems: [] }]);
  await expect(run(confined(["/bin/false"]))).rejects.toMatchObject({ code: "Internal" });
  await expect(run(confined(), AbortSignal.abort())).rejects.toMatchObject({
    code: "Canceled",
  });
});
