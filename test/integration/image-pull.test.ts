import { expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Image } from "../../src/image/images.ts";
import { imageNode } from "../fixtures/image-node.ts";
import { busyboxLayer, type Pushed, pushImage, pushIndex } from "../fixtures/registry.ts";
import type { TarSpec } from "../fixtures/tar.ts";

const node = imageNode();

const file = (name: string, data: string): TarSpec[] => [{ name, data }];
const { throughProxy } = node;
const blobGets = (digest?: string) =>
  node.proxy.requests.filter((line) => line.includes(digest ?? "/blobs/"));

async function readRootfs(image: Image, body: (rootfs: string) => void): Promise<void> {
  const { rootfs } = await node.store.storage.prepare("reader", image.layers);
  try {
    body(rootfs);
  } finally {
    await node.store.storage.remove("reader");
  }
}

for (const format of ["oci", "docker"] as const) {
  for (const compression of ["gzip", "zstd", "none"] as const) {
    test(`a ${format} image with ${compression} layers is pulled whole`, async () => {
      const pushed = await pushImage(node.registry, `kinds-${format}-${compression}:1`, {
        format,
        compression,
        layers: [busyboxLayer(), file("hello", "world")],
        config: { Cmd: ["sh"], User: "7:8", Env: ["A=b"] },
      });
      const image = await node.store.images.pull(pushed.name, {});
      expect(image).toMatchObject({
        id: pushed.id,
        repoTags: [pushed.name],
        repoDigests: [`${pushed.name.replace(/:1$/, "")}@${pushed.digest}`],
        user: "7:8",
      });
      const run = { Cmd: ["sh"], User: "7:8", Env: ["A=b"] };
      expect(node.store.images.documents.run(image.id)).toMatchObject(run);
      await readRootfs(image, (rootfs) => {
        expect(readFileSync(join(rootfs, "hello"), "utf8")).toBe("world");
        expect(readFileSync(join(rootfs, "bin/busybox")).equals(readFileSync("/bin/busybox"))).toBe(
          true,
        );
      });
    });
  }
}

test.each([
  ["a configuration of no special type", {}, { mediaType: "application/octet-stream" }, {}],
  ["no layers, by null", { rootfs: { diff_ids: null } }, {}, { layers: null, annotations: null }],
  ["nothing at all in it", { config: null, rootfs: null }, {}, { LAYERS: null, mediaType: null }],
])("an image with %s is pulled, as by other runtimes", async (_, config, descriptor, manifest) => {
  const layers = "mediaType" in descriptor ? [file("a", "b")] : [];
  let made: Record<string, unknown> = {};
  const pushed = await pushImage(node.registry, "peers:1", {
    layers,
    alterConfig: (document) => Object.assign(document, config),
    alterManifest: (document) => {
      made = {
        ...document,
        config: { ...(document.config as object), ...descriptor },
        ...manifest,
      };
      if ("LAYERS" in made) delete made.layers;
    },
  });
  // Not every registry takes such manifests.
  node.proxy.intercept = (_request, url) =>
    url.pathname.includes("/manifests/")
      ? new Response(JSON.stringify(made), { headers: { "Content-Type": "text/plain" } })
      : undefined;
  const image = await node.store.images.pull(throughProxy(pushed), {});
  expect(image).toMatchObject({ id: pushed.id, layers: layers.map(() => expect.any(String)) });
});

test("an image that skopeo pushed is pulled", async () => {
  const pushed = await pushImage(node.registry, "skopeo:from", { layers: [file("a", "b")] });
  const target = pushed.name.replace("from", "to");
  const flags = ["--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"];
  const [from, to] = [`docker://${pushed.name}`, `docker://${target}`];
  execFileSync("skopeo", ["copy", "-q", ...flags, "--format", "v2s2", from, to]);
  expect((await node.store.images.pull(target, {})).repoTags).toEqual([target]);
});

test("from an index the host's platform is taken, also below another index", async () => {
  const mine = await pushImage(node.registry, "multi:mine", { layers: [file("mine", "1")] });
  const other = await pushImage(node.registry, "multi:other", { layers: [file("other", "1")] });
  const architecture = process.arch === "arm64" ? "arm64" : "amd64";
  const entry = ({ digest, size, mediaType }: Pushed, platform: Record<string, string>) => ({
    digest,
    size,
    mediaType,
    platform,
  });
  const entries = [
    entry(other, { os: "windows", architecture }),
    entry(other, { os: "linux", architecture: "s390x" }),
    entry(mine, { os: "linux", architecture }),
  ];
  const inner = await pushIndex(node.registry, "multi:inner", entries);
  const { digest, size, mediaType } = inner;
  const outer = await pushIndex(
    node.registry,
    "multi:outer",
    [{ digest, size, mediaType }],
    "docker",
  );
  const image = await node.store.images.pull(outer.name, {});
  expect(image.id).toBe(mine.id);
  expect(image.repoDigests).toEqual([`${node.registry.host}/multi@${outer.digest}`]);
});

test("an index without the host's platform is refused, naming what it has", async () => {
  const pushed = await pushImage(node.registry, "elsewhere:x", { layers: [] });
  const { digest, size, mediaType } = pushed;
  const platform = { os: "linux", architecture: "s390x" };
  const index = await pushIndex(node.registry, "elsewhere:1", [
    { digest, size, mediaType, platform },
  ]);
  await expect(node.store.images.pull(index.name, {})).rejects.toMatchObject({
    code: "FailedPrecondition",
    message: expect.stringContaining("it has linux/s390x"),
  });
});

test("indexes nested too deep are refused", async () => {
  const pushed = await pushImage(node.registry, "deep:0", { layers: [] });
  let inner: { digest: string; size: number; mediaType: string } = pushed;
  for (let depth = 1; depth <= 5; depth++) {
    const { digest, size, mediaType } = inner;
    inner = await pushIndex(node.registry, `deep:${depth}`, [{ digest, size, mediaType }]);
  }
  await expect(node.store.images.pull(`${node.registry.host}/deep:4`, {})).resolves.toBeDefined();
  await expect(node.store.images.pull(`${node.registry.host}/deep:5`, {})).rejects.toMatchObject({
    code: "FailedPrecondition",
    message: expect.stringContaining("levels"),
  });
});

test("by digest there is no tag, and the tag of a reference with both does not count", async () => {
  const pushed = await pushImage(node.registry, "bydigest:1", { layers: [file("a", "bydigest")] });
  const name = `${node.registry.host}/bydigest`;
  const image = await node.store.images.pull(`${name}:ignored@${pushed.digest}`, {});
  expect(image).toMatchObject({ repoTags: [], repoDigests: [`${name}@${pushed.digest}`] });
  expect(node.store.images.find(`${name}@${pushed.digest}`)?.id).toBe(pushed.id);
  expect(node.store.images.find(`${name}:1`)).toBeUndefined();
});

test("an image is found by every kind of reference", async () => {
  const pushed = await pushImage(node.registry, "find:latest", { layers: [file("a", "find")] });
  const name = `${node.registry.host}/find`;
  await node.store.images.pull(name, {});
  const hex = pushed.id.slice("sha256:".length);
  for (const text of [name, `${name}:latest`, `${name}@${pushed.digest}`, pushed.id, hex]) {
    expect(node.store.images.find(text)?.id).toBe(pushed.id);
  }
  expect(node.store.images.find(hex.slice(0, 12))?.id).toBe(pushed.id);
  expect(node.store.images.find(pushed.id.slice(0, 30))?.id).toBe(pushed.id);
  for (const text of [
    hex.slice(0, 11),
    `${name}:other`,
    "find",
    "",
    "@@",
    hex.replace(/./g, "0"),
  ]) {
    expect(node.store.images.find(text)).toBeUndefined();
  }
});

test("a tag that moved is taken from the old image, which stays without a tag", async () => {
  const first = await pushImage(node.registry, "moving:1", { layers: [file("a", "first")] });
  await node.store.images.pull(first.name, {});
  const second = await pushImage(node.registry, "moving:1", { layers: [file("a", "second")] });
  await node.store.images.pull(second.name, {});
  expect(node.store.images.find(first.id)?.repoTags).toEqual([]);
  expect(node.store.images.find(first.name)?.id).toBe(second.id);
  expect(node.store.images.find(second.id)?.repoTags).toEqual([second.name]);
});

test("several tags of one image are one image, and removing it by one removes all", async () => {
  const layers = [file("a", "tags")];
  const names = [];
  for (const tag of ["tags:2", "tags:1", "tags:3"]) {
    names.push((await pushImage(node.registry, tag, { layers })).name);
  }
  for (const name of names) await node.store.images.pull(name, {});
  expect(node.store.images.list()).toHaveLength(1);
  expect(node.store.images.list()[0]?.repoTags).toEqual([...names].sort());
  await node.store.images.remove(names[1] ?? "");
  expect(node.store.images.list()).toEqual([]);
  expect(names.map((name) => node.store.images.find(name))).toEqual([
    undefined,
    undefined,
    undefined,
  ]);
  expect(node.store.layerDirectories()).toEqual([]);
  await node.store.images.remove(names[1] ?? "");
});

test("images share layers, and a shared layer goes with the last image", async () => {
  const base = busyboxLayer();
  const one = await pushImage(node.registry, "share:1", { layers: [base, file("a", "1")] });
  const two = await pushImage(node.registry, "share:2", { layers: [base, file("a", "2")] });
  await node.store.images.pull(throughProxy(one), {});
  const before = blobGets().length;
  await node.store.images.pull(throughProxy(two), {});
  expect(blobGets().length - before).toBe(2); // config and the second layer
  expect(node.store.layerDirectories()).toHaveLength(3);
  await node.store.images.remove(one.id);
  expect(node.store.layerDirectories()).toHaveLength(2);
  await node.store.images.remove(two.id);
  expect(node.store.layerDirectories()).toEqual([]);
});

test("removing an image keeps the layers of a container that uses it", async () => {
  const pushed = await pushImage(node.registry, "inuse:1", { layers: [file("a", "still there")] });
  const image = await node.store.images.pull(pushed.name, {});
  const { rootfs } = await node.store.storage.prepare("user", image.layers);
  await node.store.images.remove(pushed.name);
  expect(node.store.images.list()).toEqual([]);
  expect(readFileSync(join(rootfs, "a"), "utf8")).toBe("still there");
  await node.store.storage.unmount("user");
  node.store.storage.mount("user", image.layers);
  expect(readFileSync(join(rootfs, "a"), "utf8")).toBe("still there");
  await node.store.storage.remove("user");
  expect(node.store.layerDirectories()).toEqual([]);
  await expect(node.store.storage.prepare("late", image.layers)).rejects.toMatchObject({
    code: "NotFound",
  });
  expect(readdirSync(join(node.store.root, "containers"))).toEqual([]);
});

test("twenty concurrent pulls of one image get each blob once", async () => {
  const layers = [1, 2, 3].map((n) => file(`file${n}`, "x".repeat(n * 100_000)));
  const pushed = await pushImage(node.registry, "many:1", { layers });
  const pulls = Array.from({ length: 20 }, () => node.store.images.pull(throughProxy(pushed), {}));
  const ids = new Set((await Promise.all(pulls)).map(({ id }) => id));
  expect([...ids]).toEqual([pushed.id]);
  for (const { digest } of pushed.layers) expect(blobGets(digest)).toHaveLength(1);
  expect(blobGets(pushed.id)).toHaveLength(1);
  expect(node.proxy.requests.filter((line) => line.includes("/manifests/"))).toHaveLength(1);
});

test("concurrent pulls of images that share a layer get it once", async () => {
  const base = file("base", "y".repeat(500_000));
  const pushed = await Promise.all(
    [1, 2, 3].map((n) =>
      pushImage(node.registry, `common:${n}`, { layers: [base, file("n", `${n}`)] }),
    ),
  );
  await Promise.all(pushed.map((one) => node.store.images.pull(throughProxy(one), {})));
  expect(node.store.images.list()).toHaveLength(3);
  expect(blobGets(pushed[0]?.layers[0]?.digest)).toHaveLength(1);
});

test("a mirror is asked first, its path replaces the prefix, and the name stays", async () => {
  await pushImage(node.registry, "cache/hub/library/thing:1", { layers: [file("a", "mirrored")] });
  node.store.configure(`[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "${node.proxy.host}/cache/hub"`);
  const image = await node.store.images.pull("thing:1", {});
  expect(image.repoTags).toEqual(["docker.io/library/thing:1"]);
  expect(node.proxy.requests).toContain("GET /v2/cache/hub/library/thing/manifests/1");
});

test("a mirror that is down or lacks the image is passed over", async () => {
  const pushed = await pushImage(node.registry, "behind:1", { layers: [file("a", "behind")] });
  node.store.configure(`[[registry]]
location = "${node.registry.host}"
[[registry.mirror]]
location = "127.0.0.1:1"
[[registry.mirror]]
location = "${node.proxy.host}/nothing-here"`);
  expect((await node.store.images.pull(pushed.name, {})).repoTags).toEqual([pushed.name]);
  expect(node.proxy.requests).toContain("GET /v2/nothing-here/behind/manifests/1");
});

test("images outlive a restart, with names, sizes and pins", async () => {
  const pushed = await pushImage(node.registry, "restart:1", { layers: [file("a", "restart")] });
  const before = await node.store.images.pull(pushed.name, {});
  const after = await node.store.reopen();
  expect(after.list()).toEqual([before]);
  expect(after.find(pushed.name)).toEqual(before);
  expect(after.fsInfo()).toEqual(node.store.images.fsInfo());
});
