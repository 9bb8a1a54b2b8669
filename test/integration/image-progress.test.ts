import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { join, resolve } from "node:path";
import { type RunningCrib, startCrib } from "../fixtures/crib.ts";
import {
  freePort,
  type Pushed,
  pushImage,
  type Registry,
  startRegistry,
} from "../fixtures/registry.ts";
import { type RegistryProxy, startProxy } from "../fixtures/registry-proxy.ts";

const CRIB = resolve(import.meta.dir, "../../dist/crib");
const noise = (bytes: number) => Buffer.from(crypto.getRandomValues(new Uint8Array(bytes)));

let registry: Registry;
let proxy: RegistryProxy;
let crib: RunningCrib | undefined;
beforeAll(async () => {
  registry = await startRegistry();
});
afterAll(() => registry.stop());
beforeEach(() => {
  proxy = startProxy(registry.host);
});
afterEach(async () => {
  await crib?.stop();
  crib = undefined;
  await proxy.stop();
});

const throughProxy = ({ name }: Pushed) => name.replace(registry.host, proxy.host);

/** What `crib status` prints. */
const status = (...args: string[]) =>
  Bun.spawnSync([CRIB, "status", "--socket", crib?.socket ?? "", ...args]).stdout.toString();
const pulls = () => JSON.parse(status("--json")).pulls;

/** Keeps back the answer for a blob, after its first 1000 bytes, until `release`. */
function holdBlob(digest: string) {
  const reached = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  proxy.intercept = async (_, url) => {
    if (!url.pathname.endsWith(digest)) return undefined;
    const answer = await fetch(`http://${registry.host}${url.pathname}`, { decompress: false });
    const bytes = new Uint8Array(await answer.arrayBuffer());
    return new Response(
      new ReadableStream({
        async start(controller) {
          controller.enqueue(bytes.subarray(0, 1000));
          reached.resolve();
          await gate.promise;
          controller.enqueue(bytes.subarray(1000));
          controller.close();
        },
      }),
    );
  };
  return { reached: reached.promise, release: gate.resolve };
}

test("status and metrics show a pull that runs, with bytes and layers", async () => {
  const metrics = `127.0.0.1:${await freePort()}`;
  crib = await startCrib({ set: { "metrics.address": metrics } });
  const layers = [1, 2].map((n) => [{ name: `f${n}`, data: noise(50_000 * n) }]);
  const pushed = await pushImage(registry, "shown:1", { layers });
  const [first, second] = pushed.layers;
  const held = holdBlob(second?.digest ?? "");
  const image = throughProxy(pushed);
  const pull = crib.image.pullImage({ image: { image } });
  await held.reached;
  const size = (first?.size ?? 0) + (second?.size ?? 0);
  const here = { bytes: (first?.size ?? 0) + 1000, layers: 1 };
  while (pulls()[0]?.bytes !== here.bytes || pulls()[0]?.layers !== 1) await Bun.sleep(20);
  expect(pulls()).toMatchObject([{ image, ...here, totalBytes: size, totalLayers: 2 }]);
  expect(status()).toContain(`pull ${image}  0.1 of 0.2 MB, 1 of 2 layers`);
  const scrape = async () => (await fetch(`http://${metrics}/metrics`)).text();
  const during = await scrape();
  expect(during).toContain("crib_image_pulls_running 1\n");
  expect(during).toContain(`crib_image_pull_bytes{image="${image}"} ${here.bytes}\n`);
  expect(during).toContain(`crib_image_pull_expected_bytes{image="${image}"} ${size}\n`);
  expect(during).toContain(`crib_image_pull_layers{image="${image}"} 1\n`);
  held.release();
  await pull;
  expect(pulls()).toEqual([]);
  const after = await scrape();
  expect(after).toContain('crib_image_pulls_total{result="succeeded"} 1\n');
  expect(after).toContain(`crib_image_downloaded_bytes_total ${size}\n`);
  expect(after).toContain("crib_image_images 1\n");
  expect(after).not.toContain("crib_image_pull_bytes{");
});

/** What the daemon has written of a pull, in order. */
const told = (message: string) =>
  (crib?.log() ?? "")
    .split("\n")
    .filter((line) => line.includes(`"msg":"${message}"`))
    .map((line) => JSON.parse(line) as Record<string, unknown>);

test("the daemon's log tells of a pull that takes long how far it is, and that it has ended", async () => {
  crib = await startCrib();
  const layers = [1, 2].map((n) => [{ name: `f${n}`, data: noise(50_000 * n) }]);
  const pushed = await pushImage(registry, "told:1", { layers });
  const [first, second] = pushed.layers.map(({ size }) => size);
  const held = holdBlob(pushed.layers[1]?.digest ?? "");
  const image = throughProxy(pushed);
  const pull = crib.image.pullImage({ image: { image } });
  const bytes = (first ?? 0) + 1000;
  while (!told("pulling").some((line) => line.bytes === bytes && line.layers === 1)) {
    await Bun.sleep(50);
  }
  const totalBytes = (first ?? 0) + (second ?? 0);
  expect(told("pulling").at(-1)).toMatchObject({ image, bytes, totalBytes, totalLayers: 2 });
  expect(told("pulled")).toEqual([]);
  held.release();
  await pull;
  expect(told("pulled")).toMatchObject([{ image, imageId: pushed.id }]);
}, 120_000);

test("without an address nobody listens, and one that is taken does not end the daemon", async () => {
  crib = await startCrib();
  expect(crib.log()).not.toContain("Prometheus");
  await crib.stop();
  crib = await startCrib({ set: { "metrics.address": proxy.host } });
  await crib.runtime.version({});
  expect(crib.log()).toContain("metrics.address: off");
});

test("a download limit holds back pulls, not imports, and a pull that waits can be cancelled", async () => {
  crib = await startCrib({ set: { "image.download_limit_bytes_per_second": "20000" } });
  const layers = [[{ name: "noise", data: noise(2_000_000) }]];
  const slow = await pushImage(registry, "limited:1", { layers });
  const local = await pushImage(registry, "local:1", { layers: [[{ name: "a", data: "a" }]] });
  const layout = join(crib.directory, "layout");
  const flags = ["--insecure-policy", "--src-tls-verify=false"];
  execFileSync("skopeo", ["copy", "-q", ...flags, `docker://${local.name}`, `oci:${layout}:a`]);
  const controller = new AbortController();
  const { signal } = controller;
  const pull = crib.image.pullImage({ image: { image: throughProxy(slow) } }, { signal });
  const ended = pull.then(
    () => "pulled",
    () => "cancelled",
  );
  while (!proxy.requests.some((line) => line.includes(slow.layers[0]?.digest ?? ""))) {
    await Bun.sleep(5);
  }
  const socket = ["--socket", crib.socket];
  execFileSync(CRIB, ["images", "import", layout, "--name", "local", ...socket]);
  expect(pulls()).toMatchObject([{ image: throughProxy(slow), layers: 0, totalLayers: 1 }]);
  controller.abort();
  expect(await ended).toBe("cancelled");
  while (pulls().length > 0) await Bun.sleep(20);
  expect((await crib.image.listImages({})).images).toHaveLength(1);
}, 20_000);
