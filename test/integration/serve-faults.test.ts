/** Broken surroundings: images, disk, OCI runtime, network. Each is named and leaves nothing behind. */
import { afterEach, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { ContainerState } from "../../src/gen/runtime/v1/container_pb.ts";
import { refusal, startNode, type TestNode } from "../fixtures/pods.ts";
import { pushImage } from "../fixtures/registry.ts";
import { type RegistryProxy, startProxy } from "../fixtures/registry-proxy.ts";
import { until } from "../fixtures/until.ts";

let node: TestNode | undefined;
let proxy: RegistryProxy | undefined;
const mounted: string[] = [];

afterEach(async () => {
  try {
    if (node !== undefined) expect(await node.cleaned()).toEqual([]);
  } finally {
    await node?.stop();
    await proxy?.stop();
    node = undefined;
    proxy = undefined;
    for (const path of mounted.splice(0)) {
      Bun.spawnSync(["umount", "-l", path]);
      rmSync(dirname(path), { recursive: true });
    }
  }
});

async function condition(on: TestNode, type: string) {
  const { status } = await on.runtime.status({});
  const found = status?.conditions.find((each) => each.type === type);
  if (found === undefined) throw new Error(`no condition ${type}`);
  return found;
}

test("images that are unknown, broken or forged are refused, and nothing of them stays", async () => {
  const on = await startNode();
  node = on;
  proxy = startProxy(on.registry.host);
  const through = proxy;
  const layer = [{ name: "file", data: "x".repeat(5_000) }];
  const forged = await pushImage(on.registry, "forged:1", {
    layers: [layer],
    alterConfig: (config) => {
      config.rootfs = { type: "layers", diff_ids: [`sha256:${"0".repeat(64)}`] };
    },
  });
  const flipped = await pushImage(on.registry, "flipped:1", {
    layers: [[{ name: "other", data: "y".repeat(5_000) }]],
  });
  through.intercept = (_request, { pathname }) => {
    if (pathname.includes("/manifests/garbled")) {
      return new Response("{ not json", {
        headers: { "Content-Type": "application/vnd.oci.image.manifest.v1+json" },
      });
    }
    if (!pathname.endsWith(flipped.layers[0]?.digest ?? "?")) return undefined;
    return new Response(Buffer.alloc(flipped.layers[0]?.size ?? 0, 7));
  };
  const layersBefore = readdirSync(join(on.directory, "root/layers"));
  for (const [image, code, ...words] of [
    [`${on.registry.host}/nope:1`, "NotFound", "nope"],
    [`${on.registry.host}/busybox@sha256:${"0".repeat(64)}`, "NotFound", "0000"],
    [`${through.host}/busybox:garbled`, "", "garbled"],
    [forged.name, "DataLoss", "0000"],
    [`${through.host}/flipped:1`, "DataLoss", flipped.layers[0]?.digest ?? "?"],
    ["UPPER/Case", "InvalidArgument", "UPPER"],
    ["127.0.0.1:1/refused:1", "Unavailable", "127.0.0.1:1"],
  ] as Array<[string, string, ...string[]]>) {
    const refused = await refusal(on.imageService.pullImage({ image: { image } }));
    for (const word of words) expect(refused.message).toContain(word);
    if (code !== "") expect(`${image} ${refused.code}`).toBe(`${image} ${code}`);
    else expect(["Internal", "Unknown"]).not.toContain(refused.code);
  }
  expect((await on.imageService.listImages({})).images).toHaveLength(1);
  expect(readdirSync(join(on.directory, "root/layers"))).toEqual(layersBefore);
});

/** A node whose root is a file system of its own. */
async function smallNode(options: string): Promise<TestNode> {
  const directory = mkdtempSync(join(tmpdir(), "crib-full-"));
  const root = join(directory, "root");
  mkdirSync(root);
  Bun.spawnSync(["mount", "-t", "tmpfs", "-o", options, "tmpfs", root]);
  mounted.push(root);
  return startNode({ directory });
}

test("a pull that fills the disk is refused, and gives the space back", async () => {
  const on = await smallNode("size=12m");
  node = on;
  const big = Buffer.alloc(30_000_000, "some bytes");
  const image = await pushImage(on.registry, "big:1", { layers: [[{ name: "big", data: big }]] });
  const layers = join(on.directory, "root/layers");
  const before = readdirSync(layers);
  const pull = refusal(on.imageService.pullImage({ image: { image: image.name } }));
  expect((await pull).code).toBe("ResourceExhausted");
  expect(readdirSync(layers)).toEqual(before);
  await on.run(await on.pod());
});

test("on a full disk containers live, end and are removed with their pods", async () => {
  const on = await smallNode("size=12m");
  node = on;
  const pod = await on.pod();
  const running = await on.run(pod);
  const ending = await on.run(pod, {
    command: ["sh", "-c", "while [ ! -e /dev/shm/end ]; do sleep 0.05; done; exit 8"],
  });
  const filler = join(on.directory, "root/filler");
  const fill = () => {
    const script = `cat /dev/zero >> ${filler}; ! echo > ${filler}.more`;
    expect(Bun.spawnSync(["sh", "-c", script], { stderr: "ignore" }).exitCode).toBe(0);
  };
  fill();
  expect(await on.sh(running, "echo fine")).toBe("fine\n");
  await on.sh(running, "touch /dev/shm/end");
  expect(await on.exited(ending)).toMatchObject({ exitCode: 8 });
  await on.restart();
  expect(await on.exited(ending)).toMatchObject({ exitCode: 8 });
  expect((await on.status(running)).state).toBe(ContainerState.CONTAINER_RUNNING);
  fill();
  await on.remove(pod);
  expect(on.leftovers()).toEqual([]);
});

test("a container that finds no room for its root is refused, and leaves nothing", async () => {
  const on = await smallNode("size=50m,nr_inodes=400");
  node = on;
  const pod = await on.pod();
  await on.runtime.status({ verbose: true });
  const before = on.leftovers();
  const fillers = join(on.directory, "root/fillers");
  const script = `mkdir ${fillers}; i=0; while : > ${fillers}/$i; do i=$((i+1)); done`;
  Bun.spawnSync(["sh", "-c", script], { stderr: "ignore" });
  const refused = await refusal(on.create(pod));
  expect(refused.code).toBe("ResourceExhausted");
  expect(on.leftovers()).toEqual(before);
  // The record of its network finds no room.
  const another = await refusal(on.pod());
  expect(another.code).toBe("ResourceExhausted");
  expect(on.leftovers()).toEqual(before);
  rmSync(fillers, { recursive: true });
  await on.run(pod);
});

test("a handler whose runtime is not there says so, and the others work", async () => {
  const on = await startNode({ set: { "runtime.handlers.x.path": "/nonexistent/runc" } });
  node = on;
  const config = on.podConfig();
  const refused = await refusal(on.runtime.runPodSandbox({ config, runtimeHandler: "x" }));
  expect(refused).toMatchObject({
    code: "FailedPrecondition",
    message: expect.stringContaining("/nonexistent/runc"),
  });
  expect(await on.cleaned()).toEqual([]);
  const { runtimeHandlers } = await on.runtime.status({});
  expect(runtimeHandlers.map(({ name }) => name)).toEqual(["", "gate"]);
  await on.runtime.runPodSandbox({ config });
});

test("without any OCI runtime the node is not ready, and pods are refused", async () => {
  const on = await startNode();
  node = on;
  const pod = await on.pod();
  const container = await on.run(pod);
  await on.kill();
  rmSync(join(on.directory, "bin/runc-gate"));
  await on.start();
  expect(await condition(on, "RuntimeReady")).toMatchObject({
    status: false,
    message: expect.stringContaining("runc-gate"),
  });
  expect(await refusal(on.pod())).toMatchObject({ code: "FailedPrecondition" });
  expect((await on.status(container)).state).toBe(ContainerState.CONTAINER_RUNNING);
  on.writeGates();
  await until("the runtime is found again", async () => {
    return (await condition(on, "RuntimeReady")).status;
  });
  await on.remove(pod);
}, 30_000);

test("a PATH without runc and crun is told as it is", async () => {
  const { startCrib } = await import("../fixtures/crib.ts");
  const crib = await startCrib({ env: { PATH: "/nonexistent" } });
  try {
    const { status, runtimeHandlers } = await crib.runtime.status({});
    expect(status?.conditions.find(({ type }) => type === "RuntimeReady")).toMatchObject({
      status: false,
      reason: "RuntimeNotReady",
      message: expect.stringMatching(/crun.*runc.*PATH/),
    });
    expect(runtimeHandlers).toEqual([]);
    const metadata = { name: "n", namespace: "ns", uid: "u", attempt: 0 };
    const pod = crib.runtime.runPodSandbox({ config: { metadata } });
    expect(await refusal(pod)).toMatchObject({ code: "FailedPrecondition" });
  } finally {
    await crib.stop();
  }
});

test("a CNI plugin that hangs is killed at its deadline and undone", async () => {
  const on = await startNode({ set: { "network.timeout_seconds": "3" } });
  node = on;
  on.close("cni-add");
  const refused = await refusal(on.pod());
  expect(refused).toMatchObject({
    code: "DeadlineExceeded",
    message: expect.stringContaining("gated"),
  });
  on.open("cni-add");
  expect(await on.cleaned()).toEqual([]);
  await on.pod();
});

test("without network configuration the node is not ready, and only host pods run", async () => {
  const on = await startNode();
  node = on;
  rmSync(join(on.directory, "cni/10-test.conflist"));
  await until("not ready", async () => !(await condition(on, "NetworkReady")).status);
  expect((await condition(on, "NetworkReady")).message).toContain(join(on.directory, "cni"));
  expect(await refusal(on.pod())).toMatchObject({
    code: "Unavailable",
    message: expect.stringContaining("network is not ready"),
  });
  expect(on.leftovers()).toEqual([]);
  await on.pod({ linux: { securityContext: { namespaceOptions: { network: 2, pid: 1 } } } });
  writeFileSync(join(on.directory, "cni/10-test.conflist"), "{ broken");
  expect((await refusal(on.pod())).message).toContain("10-test.conflist");
  on.writeNetwork();
  await until("ready again", async () => (await condition(on, "NetworkReady")).status);
  await on.pod();
});

test("a missing CNI plugin is named", async () => {
  const on = await startNode();
  node = on;
  rmSync(join(on.directory, "bin/gated"));
  const refused = await refusal(on.pod());
  expect(refused.message).toContain("gated");
  expect(refused.code).not.toBe("Unknown");
  on.writeGates();
  expect(await on.cleaned()).toEqual([]);
  chmodSync(join(on.directory, "bin/gated"), 0o644);
  expect((await refusal(on.pod())).message).toContain("gated");
  on.writeGates();
});
