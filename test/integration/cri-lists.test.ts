import { afterAll, beforeAll, expect, test } from "bun:test";
import { connectCri } from "../../src/cli/cri-client.ts";
import { ContainerState } from "../../src/gen/runtime/v1/container_pb.ts";
import { PodSandboxState } from "../../src/gen/runtime/v1/pod_sandbox_pb.ts";
import {
  type MadeContainer,
  type MadePod,
  refusal,
  startNode,
  type TestNode,
} from "../fixtures/pods.ts";

let node: TestNode;
let pods: MadePod[];
let containers: MadeContainer[];

const MIB = 1024 * 1024;
/** Seventeen pods: two of them begin with the same hexadecimal digit. */
const PODS = 17;

beforeAll(async () => {
  node = await startNode();
  const host = { linux: { securityContext: { namespaceOptions: { network: 2, pid: 1 } } } };
  pods = await Promise.all(
    Array.from({ length: PODS }, (_, index) =>
      node.pod({ ...host, labels: { app: index < 2 ? "web" : "db", index: `${index}` } }),
    ),
  );
  const [first, second] = pods;
  if (first === undefined || second === undefined) throw new Error("no pods");
  const labels = { role: "main" };
  containers = [
    await node.run(first, { labels, annotations: { note: "x" } }),
    await node.create(first),
    await node.run(second, { labels }),
  ];
  await node.runtime.stopContainer({ containerId: containers[2]?.id, timeout: 0n });
  await node.runtime.stopPodSandbox({ podSandboxId: second.id });
}, 60_000);

afterAll(async () => {
  await node.stop();
});

async function podIds(filter: Parameters<TestNode["runtime"]["listPodSandbox"]>[0]["filter"]) {
  const { items } = await node.runtime.listPodSandbox({ filter });
  return items.map(({ id }) => id).sort();
}

async function containerIds(
  filter: Parameters<TestNode["runtime"]["listContainers"]>[0]["filter"],
) {
  const { containers: items } = await node.runtime.listContainers({ filter });
  return items.map(({ id }) => containers.findIndex((container) => container.id === id)).sort();
}

test("pods are filtered by prefix of the id, state and labels, together", async () => {
  const ids = pods.map(({ id }) => id).sort();
  const [first = "", second = ""] = pods.map(({ id }) => id);
  expect(await podIds(undefined)).toEqual(ids);
  expect(await podIds({ id: first })).toEqual([first]);
  expect(await podIds({ id: first.slice(0, 12) })).toEqual([first]);
  expect(await podIds({ id: first.slice(0, 1) })).toEqual(
    ids.filter((id) => id.startsWith(first.slice(0, 1))),
  );
  expect(await podIds({ id: first.slice(1, 20) })).toEqual([]);
  expect(await podIds({ state: { state: PodSandboxState.SANDBOX_NOTREADY } })).toEqual([second]);
  expect(await podIds({ state: { state: PodSandboxState.SANDBOX_READY } })).not.toContain(second);
  expect(await podIds({ labelSelector: { app: "web" } })).toEqual([first, second].sort());
  expect(await podIds({ labelSelector: { app: "web", index: "1" } })).toEqual([second]);
  expect(await podIds({ labelSelector: { app: "nope" } })).toEqual([]);
  const both = {
    state: { state: PodSandboxState.SANDBOX_READY },
    labelSelector: { app: "web" },
  };
  expect(await podIds(both)).toEqual([first]);
});

test("containers are filtered by prefix of the id, pod, state and labels, together", async () => {
  const [podId = ""] = pods.map(({ id }) => id);
  const [id = ""] = containers.map((container) => container.id);
  expect(await containerIds(undefined)).toEqual([0, 1, 2]);
  expect(await containerIds({ id: id.slice(0, 12) })).toEqual([0]);
  expect(await containerIds({ podSandboxId: podId })).toEqual([0, 1]);
  expect(await containerIds({ podSandboxId: podId.slice(0, 16) })).toEqual([0, 1]);
  expect(await containerIds({ labelSelector: { role: "main" } })).toEqual([0, 2]);
  for (const [state, found] of [
    [ContainerState.CONTAINER_RUNNING, [0]],
    [ContainerState.CONTAINER_CREATED, [1]],
    [ContainerState.CONTAINER_EXITED, [2]],
    [ContainerState.CONTAINER_UNKNOWN, []],
  ] as const) {
    expect(await containerIds({ state: { state } })).toEqual([...found]);
  }
  expect(await containerIds({ podSandboxId: podId, labelSelector: { role: "main" } })).toEqual([0]);
});

test("images are filtered by any of their names; an unknown one finds none, no name finds all", async () => {
  const idsOf = async (image: string) => {
    const { images } = await node.imageService.listImages({ filter: { image: { image } } });
    return images.map(({ id }) => id);
  };
  const [, tag = ""] = /:(\w+)$/.exec(node.image) ?? [];
  const { imageRef } = await node.imageService.pullImage({ image: { image: node.image } });
  const { images } = await node.imageService.listImages({});
  expect(images.map(({ id }) => id)).toEqual([imageRef]);
  for (const name of ["", node.image, imageRef, images[0]?.repoDigests[0] ?? "none"]) {
    expect(await idsOf(name)).toEqual([imageRef]);
  }
  expect(await idsOf(`${node.image.slice(0, -tag.length)}other`)).toEqual([]);
});

test("by itself the answer of an ExecSync fits into what the kubelet takes", async () => {
  const { runtime } = connectCri(node.crib.socket, { timeoutMs: 60_000, limitBytes: 16 * MIB });
  const { stdout, exitCode } = await runtime.execSync({
    containerId: containers[0]?.id,
    cmd: ["dd", "if=/dev/zero", "bs=1M", "count=20"],
  });
  expect(exitCode).toBe(0);
  expect(stdout.length).toBe(4 * MIB);
});

test("status takes an unambiguous prefix of an id; an ambiguous one is an error", async () => {
  const ids = pods.map(({ id }) => id);
  const [first = ""] = ids;
  const { status } = await node.runtime.podSandboxStatus({ podSandboxId: first.slice(0, 12) });
  expect(status?.id).toBe(first);
  const ambiguous = ids.map((id) => id.slice(0, 1)).find((digit, i, all) => all.indexOf(digit) < i);
  const call = node.runtime.podSandboxStatus({ podSandboxId: ambiguous });
  expect(await refusal(call)).toMatchObject({
    code: "InvalidArgument",
    message: expect.stringContaining(`"${ambiguous}"`),
  });
  const id = containers[0]?.id ?? "";
  const found = await node.runtime.containerStatus({ containerId: id.slice(0, 12), verbose: true });
  expect(found.status).toMatchObject({ id, annotations: { note: "x" }, labels: { role: "main" } });
  expect(JSON.parse(found.info.info ?? "")).toMatchObject({ sandboxID: first });
});

test("containers and pods come in the order in which they were made", async () => {
  const { items } = await node.runtime.listPodSandbox({});
  const times = items.map(({ createdAt }) => createdAt);
  expect(times).toEqual(times.toSorted((a, b) => (a < b ? -1 : 1)));
});

test("empty ids are refused by name", async () => {
  for (const [call, field] of [
    [node.runtime.podSandboxStatus({}), "pod_sandbox_id"],
    [node.runtime.stopPodSandbox({}), "pod_sandbox_id"],
    [node.runtime.removePodSandbox({}), "pod_sandbox_id"],
    [node.runtime.createContainer({ config: node.containerConfig() }), "pod_sandbox_id"],
    [node.runtime.containerStatus({}), "container_id"],
    [node.runtime.startContainer({}), "container_id"],
    [node.runtime.stopContainer({}), "container_id"],
    [node.runtime.removeContainer({}), "container_id"],
    [node.runtime.reopenContainerLog({}), "container_id"],
    [node.runtime.containerStats({}), "container_id"],
    [node.imageService.imageStatus({}), "image"],
    [node.imageService.removeImage({}), "image"],
    [node.imageService.pullImage({}), "image"],
  ] as const) {
    expect(await refusal(call)).toMatchObject({
      code: "InvalidArgument",
      message: expect.stringContaining(field),
    });
  }
});
