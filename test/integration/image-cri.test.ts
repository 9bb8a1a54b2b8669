import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { type RunningCrib, startCrib } from "../fixtures/crib.ts";
import { refusal } from "../fixtures/pods.ts";
import { pushImage, pushIndex, type Registry, startRegistry } from "../fixtures/registry.ts";

let registry: Registry;
let crib: RunningCrib;
beforeAll(async () => {
  registry = await startRegistry();
  crib = await startCrib({ set: { "image.pinned": '["*/kept:*"]' } });
});
afterEach(async () => {
  const { images } = await crib.image.listImages({});
  for (const { id } of images) await crib.image.removeImage({ image: { image: id } });
});
afterAll(async () => {
  await crib.stop();
  await registry.stop();
});

const FILE = { name: "file", data: "x".repeat(10_000) };
const pull = async (image: string) => (await crib.image.pullImage({ image: { image } })).imageRef;
const status = async (image: string) => (await crib.image.imageStatus({ image: { image } })).image;

test.each([
  ["", undefined, ""],
  ["0", 0n, ""],
  ["1000:1000", 1000n, ""],
  ["nobody:nogroup", undefined, "nobody"],
  ["9223372036854775807", 9223372036854775807n, ""],
  ["9223372036854775808", undefined, "9223372036854775808"],
  ["9".repeat(100), undefined, "9".repeat(100)],
  ["0x10", undefined, "0x10"],
  ["-1", undefined, "-1"],
])("an image of the user %j says so, and breaks no list", async (User, uid, username) => {
  const pushed = await pushImage(registry, "user:1", { layers: [[FILE]], config: { User } });
  await pull(pushed.name);
  const { images } = await crib.image.listImages({});
  expect(images).toHaveLength(1);
  expect(images[0]?.uid?.value).toBe(uid);
  expect(images[0]?.username).toBe(username);
  expect(await status(pushed.name)).toEqual(images[0]);
});

test("all fields of an image are those that were pushed", async () => {
  const annotations = { "org.example/a": "b", c: "" };
  const pushed = await pushImage(registry, "team/kept:1", {
    layers: [[FILE], [{ name: "directory/", type: "5" }]],
    alterManifest: (manifest) => {
      manifest.annotations = annotations;
    },
  });
  expect(await pull(pushed.name)).toBe(pushed.id);
  const image = await status(pushed.name);
  expect(image).toMatchObject({
    id: pushed.id,
    repoTags: [pushed.name],
    repoDigests: [`${registry.host}/team/kept@${pushed.digest}`],
    pinned: true,
    spec: { image: pushed.id, annotations },
  });
  const config = Buffer.byteLength(
    await (await fetch(`http://${registry.host}/v2/team/kept/blobs/${pushed.id}`)).text(),
  );
  // A file of three blocks, a directory, two layers' roots; ext4 and xfs count the latter differently.
  const block = 4096;
  expect(Number(image?.size)).toBeGreaterThanOrEqual(3 * block + config);
  expect(Number(image?.size)).toBeLessThanOrEqual(6 * block + config);
  expect(image).toEqual(await status(pushed.id));
});

test("a second manifest of the same configuration brings its own annotations and keeps the names", async () => {
  const spec = { layers: [[FILE]] };
  const first = await pushImage(registry, "same:1", spec);
  const second = await pushImage(registry, "same:2", {
    ...spec,
    alterManifest: (manifest) => {
      manifest.annotations = { newer: "yes" };
    },
  });
  expect(second.id).toBe(first.id);
  await pull(first.name);
  await pull(second.name);
  expect(await status(first.id)).toMatchObject({
    repoTags: [first.name, second.name],
    spec: { annotations: { newer: "yes" } },
  });
});

test("ImageFsInfo says what du says, within 1 %, whatever came and went", async () => {
  const du = (flag: string) => {
    const directories = ["layers", "layer-index"].map((name) => join(crib.root, name));
    const lines = execFileSync("du", ["-sc", flag, ...directories])
      .toString()
      .trim()
      .split("\n");
    return Number.parseInt(lines.at(-1) ?? "", 10);
  };
  const compare = async () => {
    const [found] = (await crib.image.imageFsInfo({})).imageFilesystems;
    const [bytes, inodes] = [Number(found?.usedBytes?.value), Number(found?.inodesUsed?.value)];
    expect(Math.abs(bytes - du("--block-size=1"))).toBeLessThanOrEqual(bytes / 100);
    expect(inodes).toBe(du("--inodes"));
    return bytes;
  };
  const empty = await compare();
  const small = Array.from({ length: 3000 }, (_, n) => ({ name: `d${n % 40}/f${n}`, data: "s" }));
  const large = [
    { name: "zeros", data: Buffer.alloc(3_000_000) },
    { name: "d", type: "2", linkName: "x" },
  ];
  const one = await pushImage(registry, "du:1", { layers: [small, [FILE]] });
  const two = await pushImage(registry, "du:2", { layers: [small, large] });
  await pull(one.name);
  const before = await compare();
  await pull(two.name);
  expect(await compare()).toBeGreaterThan(before);
  await crib.image.removeImage({ image: { image: two.id } });
  expect(await compare()).toBe(before);
  await crib.image.removeImage({ image: { image: one.id } });
  // A directory that was long stays so.
  expect(await compare()).toBeLessThan(empty + 10_000);
});

test.each([
  ["climbs out", [{ name: "../../escape", data: "x" }], "FailedPrecondition"],
  ["is cut off", Buffer.alloc(700, 1), "FailedPrecondition"],
])("a layer that %s fails the pull by its code, and nothing is left", async (_, layer, code) => {
  const good = Array.from({ length: 100 }, (_, n) => ({ name: `f${n}`, data: "x".repeat(5000) }));
  const pushed = await pushImage(registry, "hostile:1", { layers: [good, layer] });
  expect(await refusal(pull(pushed.name))).toMatchObject({ code });
  for (const directory of ["layers", "layer-index"]) {
    expect(readdirSync(join(crib.root, directory))).toEqual([]);
  }
  expect((await crib.image.listImages({})).images).toEqual([]);
});

test("a pull by digest, of a manifest and of an index, has no tag; one with both is by digest", async () => {
  const pushed = await pushImage(registry, "digest:1", { layers: [[FILE]] });
  const repository = `${registry.host}/digest`;
  expect(await pull(`${repository}@${pushed.digest}`)).toBe(pushed.id);
  expect(await status(`${repository}@${pushed.digest}`)).toMatchObject({
    repoTags: [],
    repoDigests: [`${repository}@${pushed.digest}`],
    pinned: false,
  });
  const { digest, mediaType, size } = pushed;
  const platform = { os: "linux", architecture: process.arch === "arm64" ? "arm64" : "amd64" };
  const index = await pushIndex(registry, "digest:all", [{ digest, mediaType, size, platform }]);
  expect(await pull(`${repository}:all@${index.digest}`)).toBe(pushed.id);
  expect(await status(pushed.id)).toMatchObject({
    repoTags: [],
    repoDigests: [`${repository}@${pushed.digest}`, `${repository}@${index.digest}`].sort(),
  });
  const wrong = `${repository}@sha256:${"0".repeat(64)}`;
  expect(await refusal(crib.image.pullImage({ image: { image: wrong } }))).toMatchObject({
    code: "NotFound",
  });
});
