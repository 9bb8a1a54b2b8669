import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { type RunningCrib, startCrib } from "../fixtures/crib.ts";
import { randomOf } from "../fixtures/fuzz.ts";
import { type Pushed, pushImage, type Registry, startRegistry } from "../fixtures/registry.ts";
import { type RegistryProxy, startProxy } from "../fixtures/registry-proxy.ts";
import { until } from "../fixtures/until.ts";

const CRIB = resolve(import.meta.dir, "../../dist/crib");
const noise = (bytes: number) => Buffer.from(crypto.getRandomValues(new Uint8Array(bytes)));

let registry: Registry;
let pushed: Pushed;
let directory: string;
let proxy: RegistryProxy;
let crib: RunningCrib;
beforeAll(async () => {
  registry = await startRegistry();
  const layers = [1, 2, 3].map((n) =>
    Array.from({ length: 200 }, (_, m) => ({ name: `d${n}/f${m}`, data: noise(20_000) })),
  );
  pushed = await pushImage(registry, "app:1", { layers });
});
afterAll(() => registry.stop());

async function start(set: Record<string, string> = {}): Promise<void> {
  directory = mkdtempSync(join(tmpdir(), "crib-crashes-"));
  proxy = startProxy(registry.host);
  crib = await startCrib({ directory, set });
}
afterEach(async () => {
  await crib.stop();
  await proxy.stop();
  rmSync(directory, { recursive: true, force: true });
});

const throughProxy = ({ name }: Pushed) => name.replace(registry.host, proxy.host);
const pull = (image: Pushed) => crib.image.pullImage({ image: { image: throughProxy(image) } });

/** Names of layers on disk and in the list of lists, and whether an import left something. */
const onDisk = () => ({
  layers: readdirSync(join(crib.root, "layers")).length,
  lists: readdirSync(join(crib.root, "layer-index")).length,
  scratch: readdirSync(crib.root).includes("import"),
});

/** The image is there with all of its layers, or nothing of it is. */
async function expectWholeOrNothing(): Promise<boolean> {
  const { images } = await crib.image.listImages({});
  const layers = images.length === 0 ? 0 : pushed.layers.length;
  const expected = { layers, lists: layers, scratch: false };
  await until("orphans are gone", () => Bun.deepEquals(onDisk(), expected));
  const check = Bun.spawnSync([CRIB, "images", "check", "--no-repair", "--socket", crib.socket]);
  expect(check.stdout.toString()).toBe(`${layers} layers checked, 0 damaged\n`);
  return images.length > 0;
}

async function killAndRestart(): Promise<void> {
  await crib.kill();
  crib = await startCrib({ directory });
}

test.each([
  ["asks for the manifest", "/manifests/1", 0],
  ["asks for the configuration", "/blobs/sha256:", 0],
  ["has half of a layer", "/blobs/sha256:", 1],
])(
  "a daemon that is killed while it %s leaves nothing half",
  async (_, part, after) => {
    await start();
    const reached = Promise.withResolvers<void>();
    let seen = 0;
    proxy.intercept = async (_, url) => {
      if (!url.pathname.includes(part)) return undefined;
      seen += 1;
      if (seen <= after) return undefined;
      const answer = await fetch(`http://${registry.host}${url.pathname}`, { decompress: false });
      const half = new Uint8Array(await answer.arrayBuffer()).subarray(0, 1_000_000);
      return new Response(
        new ReadableStream({
          start(controller) {
            if (after > 0) controller.enqueue(half);
            reached.resolve();
          },
        }),
      );
    };
    const pulling = pull(pushed).catch(() => undefined);
    await reached.promise;
    if (after > 0) await until("a layer begins", () => onDisk().layers > 0);
    await killAndRestart();
    await pulling;
    expect(await expectWholeOrNothing()).toBe(false);
    proxy.intercept = () => undefined;
    await pull(pushed);
    expect(await expectWholeOrNothing()).toBe(true);
  },
  60_000,
);

test("a daemon that is killed at any moment of a pull has the image whole, or nothing of it", async () => {
  await start();
  const began = performance.now();
  await pull(pushed);
  const wholeMs = performance.now() - began;
  const random = randomOf(1);
  for (let round = 0; round < 8; round++) {
    await crib.image.removeImage({ image: { image: pushed.id } });
    const pulling = pull(pushed).catch(() => undefined);
    await Bun.sleep(random(Math.ceil(wholeMs * 1.2)));
    await killAndRestart();
    await pulling;
    await expectWholeOrNothing();
  }
}, 120_000);

test("no more layers than max_parallel_layers come at once, over all images, and as many do", async () => {
  await start({ "image.max_parallel_layers": "2" });
  const other = await pushImage(registry, "other:1", {
    layers: [1, 2, 3].map((n) => [{ name: `o${n}`, data: noise(1000) }]),
  });
  const layers = new Set([...pushed.layers, ...other.layers].map(({ digest }) => digest));
  let [now, most] = [0, 0];
  proxy.intercept = async (_, url) => {
    if (!layers.has(url.pathname.split("/").at(-1) ?? "")) return undefined;
    now += 1;
    most = Math.max(most, now);
    // Long enough for all that may come at once to come.
    await Bun.sleep(150);
    now -= 1;
    return undefined;
  };
  await Promise.all([pull(pushed), pull(other)]);
  expect(most).toBe(2);
});

test("a slow pull takes from the server what it can use, not what there is", async () => {
  await start({ "image.download_limit_bytes_per_second": "2000000" });
  const huge = await pushImage(registry, "huge:1", {
    layers: [[{ name: "a", data: "a" }]],
    compression: "none",
    alterManifest: (manifest) => {
      for (const layer of manifest.layers as Array<Record<string, unknown>>) layer.size = 1e9;
    },
  });
  let sent = 0;
  // No archive: it is read on, to see whether it only came damaged.
  const chunk = noise(65_536);
  const server = createServer((_, response) => {
    response.writeHead(200, { "Content-Length": 1e9 });
    const more = () => {
      while (sent < 1e9) {
        sent += chunk.length;
        if (!response.write(chunk)) return;
      }
    };
    response.on("drain", more);
    more();
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address() as AddressInfo;
  proxy.intercept = (_, url) =>
    url.pathname.endsWith(huge.layers[0]?.digest ?? "")
      ? Response.redirect(`http://127.0.0.1:${port}/blob`, 307)
      : undefined;
  const controller = new AbortController();
  const { signal } = controller;
  const image = { image: throughProxy(huge) };
  const pulling = crib.image.pullImage({ image }, { signal }).catch(() => undefined);
  try {
    await until("the pull runs", () => sent > 0);
    await Bun.sleep(3000);
    const rss = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${crib.pid}/status`, "utf8"))?.[1];
    expect(Number(rss) / 1000).toBeLessThan(250);
    expect(sent / 1e6).toBeLessThan(100);
  } finally {
    controller.abort();
    await pulling;
    server.closeAllConnections();
    server.close();
  }
}, 60_000);
