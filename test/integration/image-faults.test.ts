import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { CribError, type ErrorCode } from "../../src/error.ts";
import { mount, unmount } from "../../src/linux/mount.ts";
import { imageNode } from "../fixtures/image-node.ts";
import { openTestStore, type TestStore } from "../fixtures/image-store.ts";
import { freePort, type Pushed, pushImage, sha256 } from "../fixtures/registry.ts";
import { startRawServer } from "../fixtures/registry-proxy.ts";
import { tarball } from "../fixtures/tar.ts";

const node = imageNode();

/** Random bytes do not compress: the blob is as long as the file. */
const noise = (bytes: number) => Buffer.from(crypto.getRandomValues(new Uint8Array(bytes)));
const push = (name: string, bytes = 50_000): Promise<Pushed> =>
  pushImage(node.registry, name, {
    layers: [[{ name: "noise", data: noise(bytes) }]],
    compression: "gzip",
  });
const { throughProxy } = node;
const layerOf = (pushed: Pushed) => pushed.layers[0]?.digest ?? "";

async function blobBytes(pushed: Pushed, digest = layerOf(pushed)): Promise<Buffer> {
  const repository = pushed.name.slice(pushed.name.indexOf("/") + 1, pushed.name.lastIndexOf(":"));
  const response = await fetch(`http://${node.registry.host}/v2/${repository}/blobs/${digest}`);
  return Buffer.from(await response.arrayBuffer());
}

/** Pulls, expects the failure, and that nothing is left of it. */
async function expectFailure(
  name: string,
  code: ErrorCode,
  message: string,
  options: Parameters<TestStore["images"]["pull"]>[1] = {},
): Promise<CribError> {
  const error = await node.store.images.pull(name, options).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(CribError);
  if (!(error instanceof CribError)) throw error;
  expect(error.message).toContain(message);
  expect(error.code).toBe(code);
  expectNothingLeft();
  return error;
}

function expectNothingLeft(): void {
  expect(node.store.images.list()).toEqual([]);
  expect(node.store.layerDirectories()).toEqual([]);
  for (const table of ["layers", "layer_holds", "images", "image_layers", "image_names"]) {
    expect(node.store.database.query(`SELECT * FROM ${table}`).all()).toEqual([]);
  }
}

test("an unknown image is NotFound and names registry and reference", async () => {
  const name = `${node.registry.host}/no/such:tag`;
  const error = await expectFailure(name, "NotFound", name);
  expect(error.message).toContain("MANIFEST_UNKNOWN");
});

test("an unreachable registry is Unavailable, begins with RegistryUnavailable, names all mirrors", async () => {
  const [dead, alsoDead] = [`127.0.0.1:${await freePort()}`, `127.0.0.1:${await freePort()}`];
  node.store.configure(`[[registry]]
location = "${dead}"
[[registry.mirror]]
location = "${alsoDead}/m"`);
  const error = await expectFailure(`${dead}/x:1`, "Unavailable", `${dead}/x:1`);
  expect(error.message).toStartWith("RegistryUnavailable: ");
  expect(error.message).toContain(alsoDead);
}, 20_000);

test("a flipped byte in a layer is DataLoss", async () => {
  const pushed = await push("flipped:1");
  const bytes = await blobBytes(pushed);
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
  node.proxy.intercept = (_, url) =>
    url.pathname.endsWith(layerOf(pushed)) ? new Response(new Uint8Array(bytes)) : undefined;
  await expectFailure(throughProxy(pushed), "DataLoss", layerOf(pushed));
});

test("a layer that a mirror damaged comes from the registry", async () => {
  const pushed = await push("healed:1");
  const bytes = await blobBytes(pushed);
  bytes[100] = (bytes[100] ?? 0) ^ 1;
  node.proxy.intercept = (_, url) =>
    url.pathname.endsWith(layerOf(pushed)) ? new Response(new Uint8Array(bytes)) : undefined;
  node.store.configure(
    `[[registry]]\nlocation = "${node.registry.host}"\n[[registry.mirror]]\nlocation = "${node.proxy.host}"`,
  );
  expect((await node.store.images.pull(pushed.name, {})).id).toBe(pushed.id);
  expect(node.store.layerDirectories()).toHaveLength(1);
});

test("a flipped byte in manifest or config is DataLoss", async () => {
  const pushed = await push("flippedjson:1");
  const config = await blobBytes(pushed, pushed.id);
  config[10] = (config[10] ?? 0) ^ 1;
  node.proxy.intercept = (_, url) =>
    url.pathname.endsWith(pushed.id) ? new Response(new Uint8Array(config)) : undefined;
  await expectFailure(throughProxy(pushed), "DataLoss", pushed.id);
  const headers = { "Content-Type": pushed.mediaType, "Docker-Content-Digest": pushed.digest };
  node.proxy.intercept = (_, url) =>
    url.pathname.includes("/manifests/") ? new Response("{}", { headers }) : undefined;
  await expectFailure(throughProxy(pushed), "DataLoss", pushed.digest);
  await expectFailure(`${node.proxy.host}/flippedjson@${pushed.digest}`, "DataLoss", pushed.digest);
});

test("a blob that is longer than its descriptor says is DataLoss and is not read on", async () => {
  const pushed = await push("endless:1");
  let sent = 0;
  node.proxy.intercept = (_, url) => {
    if (!url.pathname.endsWith(layerOf(pushed))) return undefined;
    const pull = (controller: ReadableStreamDefaultController<Uint8Array>) => {
      sent += 65_536;
      controller.enqueue(new Uint8Array(65_536));
    };
    return new Response(new ReadableStream({ pull }));
  };
  await expectFailure(throughProxy(pushed), "DataLoss", "longer than");
  expect(sent).toBeLessThan(100_000_000);
});

test("a blob that is always too short is not taken for whole", async () => {
  const pushed = await push("short:1");
  const bytes = await blobBytes(pushed);
  node.proxy.intercept = (_, url) =>
    url.pathname.endsWith(layerOf(pushed))
      ? new Response(new Uint8Array(bytes.subarray(0, 1000)))
      : undefined;
  await expectFailure(throughProxy(pushed), "Unavailable", "ends at 1000 of");
}, 20_000);

test("a manifest and a config beyond 1 MiB are refused", async () => {
  const pushed = await push("large:1");
  node.proxy.intercept = (_, url) =>
    url.pathname.includes("/manifests/")
      ? new Response(new Uint8Array(2 * 1024 * 1024))
      : undefined;
  await expectFailure(throughProxy(pushed), "DataLoss", "longer than");
  const big = await pushImage(node.registry, "large:2", {
    layers: [],
    config: { Labels: { a: "x".repeat(1024 * 1024) } },
  });
  await expectFailure(big.name, "FailedPrecondition", "at most 1048576");
});

test("a wrong diffID is DataLoss", async () => {
  const wrong = sha256(Buffer.from("wrong"));
  const pushed = await pushImage(node.registry, "diffid:1", {
    layers: [[{ name: "a", data: "a" }]],
    alterConfig: (config) => {
      config.rootfs = { type: "layers", diff_ids: [wrong] };
    },
  });
  await expectFailure(pushed.name, "DataLoss", wrong);
});

test.each([
  [
    "more diffIDs than layers",
    { rootfs: { type: "layers", diff_ids: [sha256(Buffer.from("")), sha256(Buffer.from("a"))] } },
    "2 diffIDs for 1 layers",
  ],
  ["another operating system", { os: "windows" }, "windows"],
  ["no rootfs", { rootfs: undefined }, "0 diffIDs for 1 layers"],
])("a config with %s is FailedPrecondition", async (_, change, message) => {
  const pushed = await pushImage(node.registry, "badconfig:1", {
    layers: [[{ name: "a", data: "a" }]],
    alterConfig: (config) => Object.assign(config, change),
  });
  await expectFailure(pushed.name, "FailedPrecondition", message);
});

test("one bad layer of several leaves nothing of the others", async () => {
  const good = [1, 2, 3].map((n) => [{ name: `f${n}`, data: noise(200_000) }]);
  const bad = tarball([{ name: "../escape", data: "x" }]);
  const pushed = await pushImage(node.registry, "onebad:1", { layers: [...good, bad] });
  await expectFailure(pushed.name, "FailedPrecondition", "../escape");
});

test("a layer that is no archive is FailedPrecondition", async () => {
  const pushed = await pushImage(node.registry, "notar:1", {
    layers: [Buffer.alloc(5000, "no tar ")],
  });
  await expectFailure(pushed.name, "FailedPrecondition", "not a tar archive");
});

test("bounds on entries and on bytes hold, also for a bomb", async () => {
  node.store.close();
  node.store = await openTestStore({ image: { max_layer_bytes: 1_000_000, max_layer_entries: 5 } });
  const bomb = await pushImage(node.registry, "bomb:1", {
    layers: [[{ name: "zeros", data: Buffer.alloc(20_000_000) }]],
  });
  await expectFailure(bomb.name, "FailedPrecondition", "image.max_layer_bytes");
  const entries = Array.from({ length: 6 }, (_, n) => ({ name: `f${n}` }));
  const many = await pushImage(node.registry, "many-entries:1", { layers: [entries] });
  await expectFailure(many.name, "FailedPrecondition", "image.max_layer_entries");
});

test("a layer whose descriptor is larger than any may be is not asked for", async () => {
  const pushed = await pushImage(node.registry, "huge:1", {
    layers: [[{ name: "a", data: "a" }]],
    alterManifest: (manifest) => {
      for (const layer of manifest.layers as Array<Record<string, unknown>>) layer.size = 2 ** 52;
    },
  });
  await expectFailure(throughProxy(pushed), "FailedPrecondition", "image.max_layer_bytes");
  expect(node.proxy.requests.filter((line) => line.endsWith(layerOf(pushed)))).toEqual([]);
});

/** Bytes that go on for as long as anybody reads; `sent()` says how many were taken. */
function endless(start: Uint8Array, filler: (turn: number) => Uint8Array) {
  let [sent, turn] = [0, 0];
  const pull = (controller: ReadableStreamDefaultController<Uint8Array>) => {
    const piece = turn === 0 ? start : filler(turn);
    turn += 1;
    sent += piece.length;
    controller.enqueue(piece);
  };
  return { response: new Response(new ReadableStream({ pull })), sent: () => sent };
}

test.each([
  ["too many entries", "image.max_layer_entries", 20_000_000],
  ["no archive", "not a tar archive", 400_000_000],
])(
  "a layer of %s is not read to its end, which never comes",
  async (what, message, most) => {
    node.store.close();
    node.store = await openTestStore({ image: { max_layer_entries: 5 } });
    const pushed = await pushImage(node.registry, "endless-layer:1", {
      layers: [[{ name: "a", data: "a" }]],
      compression: "none",
      alterManifest: (manifest) => {
        for (const layer of manifest.layers as Array<Record<string, unknown>>) layer.size = 6e10;
      },
    });
    const entries = Array.from({ length: 100 }, (_, n) => ({ name: `f${n}`, data: "x" }));
    const piece = what === "no archive" ? Buffer.alloc(1 << 20, "no tar ") : tarball(entries);
    const stream = endless(piece, () => piece);
    node.proxy.intercept = (_, url) =>
      url.pathname.endsWith(layerOf(pushed)) ? stream.response : undefined;
    await expectFailure(throughProxy(pushed), "FailedPrecondition", message);
    expect(stream.sent()).toBeLessThan(most);
  },
  30_000,
);

test("a broken connection is continued with Range, and the image is whole", async () => {
  const pushed = await push("broken:1", 3_000_000);
  const bytes = await blobBytes(pushed);
  let connections = 0;
  const raw = startRawServer((request) => {
    const from = Number(/^range: bytes=(\d+)-/im.exec(request)?.[1] ?? 0);
    connections += 1;
    const until = connections < 4 ? from + 700_000 : bytes.length;
    const status =
      from > 0
        ? `206 Partial Content\r\nContent-Range: bytes ${from}-${bytes.length - 1}/${bytes.length}`
        : "200 OK";
    const head = `HTTP/1.1 ${status}\r\nContent-Length: ${bytes.length - from}\r\n\r\n`;
    return { bytes: Buffer.concat([Buffer.from(head), bytes.subarray(from, until)]), hangUp: true };
  });
  try {
    node.proxy.intercept = (_, url) =>
      url.pathname.endsWith(layerOf(pushed))
        ? Response.redirect(`http://${raw.host}/blob`, 307)
        : undefined;
    expect((await node.store.images.pull(throughProxy(pushed), {})).id).toBe(pushed.id);
    expect(connections).toBe(4);
    const ranges = node.proxy.requests.filter((line) => line.includes("bytes="));
    expect(ranges).toHaveLength(3);
  } finally {
    raw.stop();
  }
}, 20_000);

test("a server that ignores Range is read from the start again, and the image is whole", async () => {
  const pushed = await push("norange:1", 1_000_000);
  const bytes = await blobBytes(pushed);
  let connections = 0;
  const raw = startRawServer(() => {
    connections += 1;
    const head = `HTTP/1.1 200 OK\r\nContent-Length: ${bytes.length}\r\n\r\n`;
    const body = connections < 3 ? bytes.subarray(0, 300_000 * connections) : bytes;
    return { bytes: Buffer.concat([Buffer.from(head), body]), hangUp: true };
  });
  try {
    node.proxy.intercept = (_, url) =>
      url.pathname.endsWith(layerOf(pushed))
        ? Response.redirect(`http://${raw.host}/blob`, 307)
        : undefined;
    expect((await node.store.images.pull(throughProxy(pushed), {})).id).toBe(pushed.id);
    expect(connections).toBe(3);
  } finally {
    raw.stop();
  }
}, 20_000);

test("5xx and 429 are tried again", async () => {
  const pushed = await push("flaky:1");
  const seen = new Map<string, number>();
  node.proxy.intercept = (_, url) => {
    const count = (seen.get(url.pathname) ?? 0) + 1;
    seen.set(url.pathname, count);
    if (url.pathname === "/v2/" || count > 2) return undefined;
    return new Response("busy", { status: count === 1 ? 503 : 429 });
  };
  expect((await node.store.images.pull(throughProxy(pushed), {})).id).toBe(pushed.id);
}, 20_000);

test("a body that stalls ends the pull after the no-progress time", async () => {
  node.store.close();
  node.store = await openTestStore({ image: { no_progress_timeout_seconds: 0.3 } });
  const pushed = await push("stall:1");
  node.proxy.intercept = (_, url) =>
    url.pathname.endsWith(layerOf(pushed))
      ? new Response(
          new ReadableStream({ start: (controller) => controller.enqueue(new Uint8Array(100)) }),
        )
      : undefined;
  const error = await expectFailure(throughProxy(pushed), "DeadlineExceeded", "no progress");
  expect(error.message).toContain("0.3 seconds");
}, 20_000);

test("a body that drips ends the pull after the no-progress time", async () => {
  node.store.close();
  node.store = await openTestStore({ image: { no_progress_timeout_seconds: 0.5 } });
  const pushed = await push("drip:1");
  let sent = 0;
  const pull = async (controller: ReadableStreamDefaultController<Uint8Array>) => {
    await Bun.sleep(20);
    sent += 1;
    controller.enqueue(new Uint8Array(1));
  };
  node.proxy.intercept = (_, url) =>
    url.pathname.endsWith(layerOf(pushed)) ? new Response(new ReadableStream({ pull })) : undefined;
  await expectFailure(throughProxy(pushed), "DeadlineExceeded", "no progress for 0.5 seconds");
  expect(sent).toBeLessThan(1024);
}, 20_000);

test("an index that names itself is not followed round and round", async () => {
  const mediaType = "application/vnd.oci.image.index.v1+json";
  const other = sha256(Buffer.from("other"));
  const index = (digest: string) =>
    JSON.stringify({
      schemaVersion: 2,
      mediaType,
      manifests: [{ mediaType, digest, size: 5 }],
    });
  node.proxy.intercept = (_, url) => {
    if (!url.pathname.includes("/manifests/")) return undefined;
    const asked = url.pathname.split("/").at(-1) ?? "";
    const digest = asked.startsWith("sha256:") ? asked : other;
    return new Response(index(digest), { headers: { "Content-Type": mediaType } });
  };
  await expectFailure(`${node.proxy.host}/cycle:1`, "DataLoss", other);
  expect(node.proxy.requests.filter((line) => line.includes("/manifests/"))).toHaveLength(2);
});

test("indexes that lead to more and more indexes are followed no further than 32 manifests", async () => {
  const mediaType = "application/vnd.oci.image.index.v1+json";
  const documents = new Map<string, string>();
  const index = (manifests: readonly object[]) => {
    const text = JSON.stringify({ schemaVersion: 2, mediaType, manifests });
    const digest = sha256(Buffer.from(text));
    documents.set(digest, text);
    return { mediaType, digest, size: text.length };
  };
  const foreign = { os: "plan9", architecture: "amd64" };
  const leaf = (n: number) =>
    index([{ mediaType, digest: sha256(Buffer.from(`${n}`)), size: 1, platform: foreign }]);
  const wide = (n: number) => index(Array.from({ length: 20 }, (_, m) => leaf(20 * n + m)));
  const same = wide(0);
  node.proxy.intercept = (_, url) => {
    const text = documents.get(url.pathname.split("/").at(-1) ?? "");
    if (!url.pathname.includes("/manifests/")) return undefined;
    return new Response(text, { headers: { "Content-Type": mediaType } });
  };
  const asked = () => node.proxy.requests.filter((line) => line.includes("/manifests/")).length;
  const wider = index(Array.from({ length: 20 }, (_, n) => wide(n)));
  const by = (digest: string) => `${node.proxy.host}/wide@${digest}`;
  await expectFailure(by(wider.digest), "FailedPrecondition", "more than 32 manifests");
  expect(asked()).toBe(32);
  // One that is met again is not asked for again.
  const twice = index([same, same, index([same])]);
  await expectFailure(by(twice.digest), "FailedPrecondition", "nothing for");
  expect(asked()).toBe(32 + 23);
}, 20_000);

test("a page in the place of a manifest, and a layer of another compression than it says", async () => {
  const pushed = await push("page:1");
  const page = new Response("<html>Please log in</html>", {
    headers: { "Content-Type": "text/html" },
  });
  node.proxy.intercept = (_, url) => (url.pathname.includes("/manifests/") ? page : undefined);
  await expectFailure(throughProxy(pushed), "FailedPrecondition", "manifest");
  const tar = tarball([{ name: "a", data: "zstd" }]);
  const mislabelled = await pushImage(node.registry, "mislabelled:1", {
    layers: [zstdCompressSync(tar)],
    compression: "none",
    alterConfig: (config) => {
      config.rootfs = { type: "layers", diff_ids: [sha256(tar)] };
    },
    alterManifest: (manifest) => {
      for (const layer of manifest.layers as Array<Record<string, unknown>>) {
        layer.mediaType = "application/vnd.oci.image.layer.v1.tar+gzip";
      }
    },
  });
  expect((await node.store.images.pull(mislabelled.name)).layers).toEqual([sha256(tar)]);
});

test("an aborted pull leaves nothing, and the next one succeeds", async () => {
  const pushed = await push("abort:1", 2_000_000);
  const bytes = await blobBytes(pushed);
  const controller = new AbortController();
  node.proxy.intercept = (_, url) => {
    if (!url.pathname.endsWith(layerOf(pushed))) return undefined;
    setTimeout(() => controller.abort(), 200);
    return new Response(
      new ReadableStream({
        start: (out) => out.enqueue(new Uint8Array(bytes.subarray(0, 1_000_000))),
      }),
    );
  };
  await expectFailure(throughProxy(pushed), "Canceled", "cancelled", { signal: controller.signal });
  node.proxy.intercept = () => undefined;
  expect((await node.store.images.pull(throughProxy(pushed), {})).id).toBe(pushed.id);
});

test("a pull goes on when one of two callers gives up", async () => {
  const pushed = await push("twocallers:1", 500_000);
  const controller = new AbortController();
  node.proxy.intercept = async (_, url) => {
    if (url.pathname.endsWith(layerOf(pushed))) await Bun.sleep(200);
    return undefined;
  };
  const impatient = node.store.images.pull(throughProxy(pushed), { signal: controller.signal });
  const patient = node.store.images.pull(throughProxy(pushed), {});
  setTimeout(() => controller.abort(), 100);
  await expect(impatient).rejects.toMatchObject({ code: "Canceled" });
  expect((await patient).id).toBe(pushed.id);
});

test("what a killed daemon left is deleted when the store is opened", async () => {
  const pushed = await push("orphan:1");
  await node.store.images.pull(pushed.name, {});
  mkdirSync(join(node.store.root, "layers/0123456789ab/deep"), { recursive: true });
  node.store.database.run(
    "INSERT INTO layers VALUES ('sha256:x', 'sha256:x', 'feedfeedfeed', 1, 1)",
  );
  node.store.database.run("INSERT INTO layer_holds VALUES ('pull/dead', 'sha256:x')");
  mkdirSync(join(node.store.root, "layers/feedfeedfeed"));
  const reopened = await node.store.reopen();
  expect(reopened.list()).toHaveLength(1);
  expect(node.store.layerDirectories()).toHaveLength(1);
  expect(node.store.database.query("SELECT * FROM layer_holds").all()).toEqual([]);
});

test("an image whose layer directory is gone at open stays, and a pull mends it", async () => {
  const pushed = await push("damaged:1");
  await node.store.images.pull(pushed.name, {});
  rmSync(join(node.store.root, "layers"), { recursive: true });
  const reopened = await node.store.reopen();
  const [image] = reopened.list();
  expect(image).toMatchObject({ id: pushed.id, repoTags: [pushed.name] });
  expect(image && reopened.isWhole(image)).toBe(false);
  expect(() => image && reopened.requireWhole(image, "it")).toThrow(image?.layers[0]);
  const mended = await reopened.pull(pushed.name, {});
  expect(mended.id).toBe(pushed.id);
  expect(reopened.isWhole(mended)).toBe(true);
  expect(await reopened.check({ fast: false, repair: false })).toMatchObject({ damaged: [] });
  expect(node.store.layerDirectories()).toHaveLength(1);
});

test("a full disk is ResourceExhausted and leaves nothing", async () => {
  const root = mkdtempSync(join(tmpdir(), "crib-full-"));
  mount({ source: "tmpfs", target: root, type: "tmpfs", data: "size=4m" });
  try {
    node.store.close();
    node.store = await openTestStore({ root });
    const fits = await push("fits:1", 1_000_000);
    const pushed = await push("toolarge:1", 8_000_000);
    await expectFailure(pushed.name, "ResourceExhausted", "ENOSPC");
    expect(readdirSync(join(root, "layers"))).toEqual([]);
    expect((await node.store.images.pull(fits.name, {})).id).toBe(fits.id);
  } finally {
    unmount(root, { detach: true });
    rmSync(root, { recursive: true });
  }
}, 20_000);

test("a registries.conf that is broken fails the pull and names the file", async () => {
  node.store.configure("[[registry]");
  await expectFailure("busybox", "FailedPrecondition", "registries.conf");
});

test("the registry's own failing answer to a layer is told", async () => {
  const pushed = await push("noblob:1");
  const body = JSON.stringify({ errors: [{ code: "BLOB_UNKNOWN", message: "gone \u001b[31m" }] });
  node.proxy.intercept = (_, url) =>
    url.pathname.endsWith(layerOf(pushed)) ? new Response(body, { status: 404 }) : undefined;
  const error = await expectFailure(throughProxy(pushed), "NotFound", "BLOB_UNKNOWN: gone");
  expect(error.message).not.toContain("\u001b");
});

test("a gzip layer of several members is unpacked whole", async () => {
  const tar = tarball([
    { name: "a", data: "a".repeat(100_000) },
    { name: "z", data: "the last" },
  ]);
  const members = Buffer.concat([
    gzipSync(tar.subarray(0, 50_000)),
    gzipSync(tar.subarray(50_000)),
  ]);
  const pushed = await pushImage(node.registry, "members:1", {
    layers: [members],
    compression: "none",
    alterConfig: (config) => {
      config.rootfs = { type: "layers", diff_ids: [sha256(tar)] };
    },
  });
  const image = await node.store.images.pull(pushed.name, {});
  const directory = node.store.layerDirectories()[0] ?? "";
  expect(image.layers).toEqual([sha256(tar)]);
  expect(readdirSync(join(node.store.root, "layers", directory)).sort()).toEqual(["a", "z"]);
});
