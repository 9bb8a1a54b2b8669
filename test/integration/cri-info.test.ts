/** What a verbose status shows beside the status: what `crictl inspect` prints and node agents read. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { RUNTIME_NAME, VERSION } from "../../src/version.ts";
import { Crictl } from "../fixtures/crictl.ts";
import { type MadeContainer, type MadePod, startNode, type TestNode } from "../fixtures/pods.ts";
import { pushImage } from "../fixtures/registry.ts";
import { haveClients } from "../fixtures/streaming-clients.ts";

let node: TestNode;
let pod: MadePod;
let container: MadeContainer;

beforeAll(async () => {
  node = await startNode();
  pod = await node.pod({ labels: { app: "web" }, annotations: { note: "x" } });
  container = await node.run(pod, {
    command: ["sh", "-c", "trap exit TERM; while true; do sleep 0.05; done"],
    envs: [{ key: "TOKEN", value: Buffer.from("tell") }],
    labels: { role: "main" },
    annotations: { hash: "1" },
  });
});

afterAll(async () => {
  await node.remove(pod);
  expect(node.leftovers()).toEqual([]);
  await node.stop();
});

/** What of it is looked at by name; the rest is compared. */
interface Shown {
  pid: number;
  namespaces: { net: string };
  runtimeSpec: {
    annotations: Record<string, string>;
    linux: { namespaces: Array<{ type: string; path: string }> };
  };
}

const parsed = (info: Record<string, string>) => JSON.parse(info.info ?? "") as Shown;

test("a container shows its process, its configuration and its OCI configuration", async () => {
  const { info } = await node.runtime.containerStatus({ containerId: container.id, verbose: true });
  expect(Object.keys(info)).toEqual(["info"]);
  const shown = parsed(info);
  expect(shown).toMatchObject({
    sandboxID: pod.id,
    privileged: false,
    snapshotKey: container.id,
    snapshotter: "overlayfs",
    runtimeType: "gate",
    config: {
      metadata: { name: expect.any(String) },
      image: { image: node.image },
      envs: [{ key: "TOKEN", value: "tell" }],
      linux: { security_context: { namespace_options: { pid: 1 } } },
    },
    runtimeSpec: {
      process: { env: expect.arrayContaining(["TOKEN=tell"]) },
      annotations: {
        "io.kubernetes.cri.image-name": node.image,
        "io.kubernetes.cri-o.SandboxID": pod.id,
      },
      linux: { cgroupsPath: expect.stringContaining(container.id) },
    },
  });
  expect(await node.sh(container, "cat /proc/1/cmdline")).toContain("trap");
  expect(process.kill(shown.pid, 0)).toBe(true);
  const { namespaces } = shown.runtimeSpec.linux;
  expect(namespaces.find(({ type }) => type === "network")?.path).toContain(pod.id);
});

test("a container that has ended has no process, and still its configuration", async () => {
  const ended = await node.run(pod, { command: ["true"] });
  await node.exited(ended);
  const { info } = await node.runtime.containerStatus({ containerId: ended.id, verbose: true });
  expect(parsed(info)).toMatchObject({ pid: 0, runtimeSpec: { process: { args: ["true"] } } });
  await node.runtime.removeContainer({ containerId: ended.id });
});

test("what an answer has no room for is left out by name, and the rest is there", async () => {
  const envs = [{ key: "LONG", value: Buffer.alloc(5 * 1024 * 1024, "x") }];
  const long = await node.create(pod, { envs });
  const { info } = await node.runtime.containerStatus({ containerId: long.id, verbose: true });
  const shown = parsed(info);
  expect(shown).toMatchObject({ sandboxID: pod.id, omitted: ["runtimeSpec"] });
  expect(shown.runtimeSpec).toBeUndefined();
  await node.runtime.removeContainer({ containerId: long.id });
});

test("a pod shows its network, its namespaces and its configuration", async () => {
  const { status, info } = await node.runtime.podSandboxStatus({
    podSandboxId: pod.id,
    verbose: true,
  });
  const { metadata } = pod.config;
  expect(status).toMatchObject({ id: pod.id, metadata, runtimeHandler: "gate" });
  expect(status).toMatchObject({ labels: { app: "web" }, annotations: { note: "x" } });
  expect(status?.createdAt).toBeGreaterThan(0n);
  const ip = status?.network?.ip;
  const shown = parsed(info);
  expect(shown).toMatchObject({
    processStatus: "running",
    netNamespaceClosed: false,
    runtimeHandler: "gate",
    config: {
      metadata: { uid: metadata?.uid },
      labels: { app: "web" },
      annotations: { note: "x" },
    },
    cniResult: { Interfaces: { eth0: { IPConfigs: [{ IP: ip }], Sandbox: expect.any(String) } } },
    runtimeSpec: {
      annotations: {
        note: "x",
        "io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri-o.SandboxID": pod.id,
        "io.kubernetes.cri-o.HostNetwork": "false",
        "io.kubernetes.cri-o.IP.0": ip,
      },
      linux: {
        namespaces: expect.arrayContaining([{ type: "network", path: shown.namespaces.net }]),
      },
    },
  });
  const result = JSON.parse(shown.runtimeSpec.annotations["io.kubernetes.cri-o.CNIResult"] ?? "");
  expect(result.ips[0].address).toContain(ip);
  const { items } = await node.runtime.listPodSandbox({ filter: { id: pod.id } });
  expect(items).toMatchObject([
    { runtimeHandler: "gate", labels: { app: "web" }, annotations: { note: "x" } },
  ]);
});

test("an image shows its whole configuration and its labels", async () => {
  const more = { author: "somebody", created: "2026-01-02T03:04:05Z", variant: "v1" };
  const history = [{ created_by: "COPY x" }, { created_by: "CMD", empty_layer: true }];
  const pushed = await pushImage(node.registry, "labelled:1", {
    layers: [[{ name: "file", data: "x" }]],
    config: { Labels: { vendor: "test" }, Cmd: ["/x"] },
    alterConfig: (config) => Object.assign(config, more, { history }),
  });
  const image = { image: pushed.name };
  await node.imageService.pullImage({ image });
  const { info } = await node.imageService.imageStatus({ image, verbose: true });
  const diffIds = pushed.layers.map(({ diffId }) => diffId);
  expect(parsed(info)).toMatchObject({
    chainID: diffIds[0],
    labels: { vendor: "test" },
    imageSpec: {
      ...more,
      os: "linux",
      history,
      rootfs: { type: "layers", diff_ids: diffIds },
      config: { Labels: { vendor: "test" }, Cmd: ["/x"] },
    },
  });
  await node.imageService.removeImage({ image });
  expect(await node.imageService.imageStatus({ image, verbose: true })).toMatchObject({ info: {} });
});

test("an image whose configuration is long tells its labels there, and says so", async () => {
  const Labels = { long: "x".repeat(100_000) };
  const config = { Labels };
  const pushed = await pushImage(node.registry, "long:1", { layers: [[{ name: "f" }]], config });
  const image = { image: pushed.name };
  await node.imageService.pullImage({ image });
  const { info } = await node.imageService.imageStatus({ image, verbose: true });
  const told = parsed(info);
  expect(told).toMatchObject({ omitted: ["labels"], imageSpec: { config: { Labels } } });
  expect(told).not.toHaveProperty("labels");
  await node.imageService.removeImage({ image });
});

test("nothing of it is in an answer that is not verbose", async () => {
  const answers = await Promise.all([
    node.runtime.containerStatus({ containerId: container.id }),
    node.runtime.podSandboxStatus({ podSandboxId: pod.id }),
    node.imageService.imageStatus({ image: { image: node.image } }),
  ]);
  for (const { info } of answers) expect(info).toEqual({});
});

test("statistics name the container as its creator did", async () => {
  const { stats } = await node.runtime.containerStats({ containerId: container.id });
  const { metadata, labels, annotations } = await node.status(container);
  expect({ labels, annotations }).toEqual({ labels: { role: "main" }, annotations: { hash: "1" } });
  expect(stats?.attributes).toEqual({ id: container.id, metadata, labels, annotations });
});

test("the file system of images has a name, and when and how much of it was used", async () => {
  const { imageFilesystems, containerFilesystems } = await node.imageService.imageFsInfo({});
  for (const [usage] of [imageFilesystems, containerFilesystems]) {
    expect(usage?.fsId).toEqual({ mountpoint: join(node.directory, "root") });
    expect(usage?.timestamp).toBeGreaterThan(0n);
    expect(usage?.inodesUsed?.value).toBeGreaterThan(0n);
  }
});

test("the node says who it is and which API it speaks", async () => {
  expect(await node.runtime.version({ version: "v9" })).toEqual({
    version: "0.1.0",
    runtimeName: RUNTIME_NAME,
    runtimeVersion: VERSION,
    runtimeApiVersion: "v1",
  });
});

test("the node says what its handlers and itself can do, and the driver of its cgroups", async () => {
  const { runtimeHandlers, features } = await node.runtime.status({});
  expect(runtimeHandlers.find(({ name }) => name === "")).toMatchObject({
    features: { recursiveReadOnlyMounts: expect.any(Boolean), userNamespaces: false },
  });
  expect(features).toMatchObject({ supplementalGroupsPolicy: true, mountOptions: true });
  const { linux } = await node.runtime.runtimeConfig({});
  expect(linux?.cgroupDriver).toBe(1);
});

test.skipIf(!haveClients)("crictl prints it under info", async () => {
  const crictl = new Crictl(node);
  const inspect = async (command: string, id: string) => {
    const { stdout } = await crictl.run([command, id]);
    return JSON.parse(stdout) as unknown;
  };
  expect(await inspect("inspect", container.id)).toMatchObject({
    status: { id: container.id },
    info: { sandboxID: pod.id, runtimeSpec: { ociVersion: expect.any(String) } },
  });
  expect(await inspect("inspectp", pod.id)).toMatchObject({
    info: { runtimeSpec: { linux: { namespaces: expect.any(Array) } } },
  });
  expect(await inspect("inspecti", node.image)).toMatchObject({
    info: { imageSpec: { rootfs: { type: "layers" } } },
  });
});
