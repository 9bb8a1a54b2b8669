import { afterAll, beforeAll, expect, test } from "bun:test";
import { execFileSync, spawnSync } from "node:child_process";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { type RunningCrib, startCrib } from "../fixtures/crib.ts";
import { type Pushed, pushImage, type Registry, startRegistry } from "../fixtures/registry.ts";
import { until } from "../fixtures/until.ts";

const CRIB = resolve(import.meta.dir, "../../dist/crib");
let registry: Registry;
let pushed: Pushed;
let directory: string;
let crib: RunningCrib;
const options = () => ({ directory: join(directory, "crib") });

beforeAll(async () => {
  registry = await startRegistry();
  directory = mkdtempSync(join(tmpdir(), "crib-command-"));
  pushed = await pushImage(registry, "app:1", { layers: [[{ name: "file", data: "content" }]] });
  save(at("app.tar"));
  crib = await startCrib(options());
});
afterAll(async () => {
  await crib.stop();
  await registry.stop();
  rmSync(directory, { recursive: true, force: true });
});

const at = (name: string) => join(directory, name);
/** Writes the pushed image to an archive. */
function save(path: string): void {
  const flags = ["--insecure-policy", "--src-tls-verify=false", `docker://${pushed.name}`];
  execFileSync("skopeo", ["copy", "-q", ...flags, `oci-archive:${path}:example.com/app:1`]);
}
function images(argv: string[], input?: Buffer) {
  const run = spawnSync(CRIB, ["images", ...argv, "--socket", crib.socket], {
    input,
    cwd: directory,
  });
  return { status: run.status, stdout: run.stdout.toString(), stderr: run.stderr.toString() };
}
const listed = () => JSON.parse(images(["list", "--json"]).stdout);
test("import takes a relative path or standard input, and list shows what came; prune removes it", () => {
  expect(listed()).toEqual([]);
  const imported = images(["import", "app.tar"]);
  expect(imported).toMatchObject({ status: 0, stderr: "" });
  expect(imported.stdout).toContain("example.com/app:1");
  expect(listed()).toMatchObject([{ id: pushed.id, pinned: false }]);
  expect(images(["list"]).stdout).toContain(pushed.id.slice(7, 19));
  expect(images(["prune"]).stdout).toContain("example.com/app:1");
  expect(listed()).toEqual([]);
  const piped = images(["import", "-", "--name", "other:2"], gzipSync(readFileSync(at("app.tar"))));
  expect(piped.status).toBe(0);
  expect(listed()).toMatchObject([
    { names: expect.arrayContaining(["docker.io/library/other:2"]) },
  ]);
  expect(readdirSync("/var/tmp").filter((name) => name.startsWith("crib-import-"))).toEqual([]);
});

test("a broken archive and a missing daemon are one line and exit status 1", () => {
  writeFileSync(at("broken.tar"), "x");
  const broken = images(["import", "broken.tar"]);
  expect(broken.status).toBe(1);
  expect(broken.stderr).toContain("broken.tar");
  expect(broken.stderr.trim().split("\n")).toHaveLength(1);
  const nobody = spawnSync(CRIB, ["images", "list", "--socket", at("nobody")]);
  expect(nobody.status).toBe(1);
});

test("check repairs from the registry; where it cannot, exit status 1", async () => {
  images(["prune"]);
  await crib.image.pullImage({ image: { image: pushed.name } });
  expect(images(["check"])).toMatchObject({ status: 0, stdout: "1 layers checked, 0 damaged\n" });
  const layers = join(crib.root, "layers");
  const file = () => join(layers, readdirSync(layers)[0] ?? "", "file");
  writeFileSync(file(), "CONTENT");
  expect(images(["check", "--fast"]).stdout).toContain("0 damaged");
  const looked = images(["check", "--no-repair"]);
  expect(looked.status).toBe(1);
  expect(looked.stdout).toContain("still damaged");
  expect(images(["check"])).toMatchObject({
    status: 0,
    stdout: expect.stringContaining("repaired"),
  });
  expect(readFileSync(file(), "utf8")).toBe("content");
});

test("the watched directory is imported while the daemon runs and when it starts", async () => {
  const watched = join(crib.root, "preload");
  await until("the directory", () => readdirSync(crib.root).includes("preload"));
  images(["prune"]);
  renameSync(at("app.tar"), join(watched, "app.tar"));
  await until("import", () => listed()[0]?.pinned === true);
  await crib.image.removeImage({ image: { image: pushed.id } });
  expect(listed()).toEqual([]);
  await crib.kill();
  // The mark of a machine that went down with its daemon.
  writeFileSync(join(crib.root, "session"), "another boot\n");
  crib = await startCrib(options());
  await until("import at start", () => listed()[0]?.pinned === true);
  await until("the check of the layers", () => crib.log().includes("layers checked"));
});

test("what a power cut damaged is found and repaired at the next start, also when that is cut off", async () => {
  rmSync(join(crib.root, "preload/app.tar"), { force: true });
  await until("unpinned", () => listed()[0]?.pinned !== true);
  images(["prune"]);
  await crib.image.pullImage({ image: { image: pushed.name } });
  const layers = join(crib.root, "layers");
  const file = () => join(layers, readdirSync(layers)[0] ?? "", "file");
  const repaired = () => existsSync(file()) && readFileSync(file(), "utf8") === "content";
  await crib.kill();
  truncateSync(file(), 3);
  writeFileSync(join(crib.root, "session"), "another boot\n");
  crib = await startCrib(options());
  await until("the repair", repaired);
  await until(
    "the mark",
    () => !readFileSync(join(crib.root, "session"), "utf8").includes("another"),
  );
  // A directory that is gone is reason enough for a check, also where the machine went down in order.
  await crib.stop();
  rmSync(join(layers, readdirSync(layers)[0] ?? ""), { recursive: true });
  crib = await startCrib(options());
  await until("the directory", () => readdirSync(layers).length === 1 && repaired());
  await until("the check", () => crib.log().includes("layers checked"));
  expect(listed()).toMatchObject([{ id: pushed.id }]);
  // What cannot be repaired does not end the daemon, whatever is wrong with the archive.
  images(["prune"]);
  const archive = at("loop.tar");
  save(archive);
  images(["import", archive]);
  await crib.kill();
  truncateSync(file(), 3);
  rmSync(archive);
  symlinkSync(archive, archive);
  writeFileSync(join(crib.root, "session"), "another boot\n");
  crib = await startCrib(options());
  await until("the check", () => crib.log().includes("layers checked"));
  expect(crib.log()).toContain("ELOOP");
  expect(listed()).toHaveLength(1);
});
