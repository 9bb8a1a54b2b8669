/**
 * A node with hostile pods, images and clients of every kind at once: an ordinary pod must still come,
 * answer and go, again and again. `npm run bench:hostile` measures what the loads cost.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { type CriClients, connectCri } from "../../src/cli/cri-client.ts";
import { type Arena, startArena } from "../fixtures/hostile/arena.ts";
import { besiege, prepare } from "../fixtures/hostile/loads.ts";
import { pushImage } from "../fixtures/registry.ts";

/** Names of files in one writable layer; the bench has ten times as many, and all heavy images. */
const LINKS = 50_000;
const HEAVY_IMAGES = 20;
const LIVES = 5;
/** What the kubelet takes of an answer. */
const KUBELET_LIMIT_BYTES = 16 * 1024 * 1024;
/** Of each call: far more than a machine with other work needs, less than a fault takes. */
const CALL_LIMIT_MS = 30_000;
const TEST_LIMIT_MS = 300_000;

let arena: Arena;
let kubelet: CriClients;

beforeAll(async () => {
  arena = await startArena({
    links: LINKS,
    heavyImages: HEAVY_IMAGES,
    set: { "log.level": "warn" },
  });
  kubelet = connectCri(arena.node.crib.socket, {
    timeoutMs: CALL_LIMIT_MS,
    limitBytes: KUBELET_LIMIT_BYTES,
  });
}, TEST_LIMIT_MS);

afterAll(async () => {
  kubelet?.close();
  await arena?.stop();
}, TEST_LIMIT_MS);

/** All that a kubelet does with a pod: each call has to succeed, within its deadline and its size. */
async function liveOnce(life: number): Promise<void> {
  const { runtime, image } = kubelet;
  const { node } = arena;
  const layers = [[{ name: `life-${life}`, data: String(life) }]];
  const pushed = await pushImage(node.registry, `ordinary-${life}:1`, { layers });
  await image.pullImage({ image: { image: pushed.name } });
  await image.removeImage({ image: { image: pushed.name } });
  const sandboxConfig = node.podConfig();
  const { podSandboxId } = await runtime.runPodSandbox({ config: sandboxConfig });
  const config = node.containerConfig();
  const { containerId } = await runtime.createContainer({ podSandboxId, sandboxConfig, config });
  await runtime.startContainer({ containerId });
  const probe = await runtime.execSync({
    containerId,
    cmd: ["cat", "/etc/resolv.conf", "/bin/sh"],
  });
  expect(probe.exitCode).toBe(0);
  const { containers } = await runtime.listContainers({});
  expect(containers.map(({ id }) => id)).toContain(containerId);
  const { items } = await runtime.listPodSandbox({});
  expect(items.map(({ id }) => id)).toContain(podSandboxId);
  const { images } = await image.listImages({});
  expect(images.map(({ id }) => id)).toContain(node.pushed?.id ?? "");
  const { stats } = await runtime.containerStats({ containerId });
  expect(stats?.attributes?.id).toBe(containerId);
  await runtime.listContainerStats({});
  await image.imageFsInfo({});
  await runtime.stopContainer({ containerId, timeout: 0n });
  await runtime.removeContainer({ containerId });
  await runtime.stopPodSandbox({ podSandboxId });
  await runtime.removePodSandbox({ podSandboxId });
}

test(
  "while all hostile loads run, an ordinary pod is created, probed, listed and removed again and again",
  async () => {
    const siege = besiege(await prepare(arena));
    try {
      for (let life = 0; life < LIVES; life += 1) {
        await liveOnce(life);
        expect(siege.failures).toEqual([]);
      }
    } finally {
      await siege.end();
    }
    expect(siege.failures).toEqual([]);
    // Each load has been there, if the machine had no time for more than its first round.
    expect([...siege.rounds].filter(([, count]) => count === 0)).toEqual([]);
  },
  TEST_LIMIT_MS,
);

test(
  "afterwards all pods, the hostile ones too, are stopped and removed, and nothing is left",
  async () => {
    expect(await arena.cleaned()).toEqual([]);
  },
  TEST_LIMIT_MS,
);
