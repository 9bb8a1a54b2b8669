/** Two daemons with pods of the same names on one machine: neither takes anything of the other's. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type MadeContainer, type MadePod, startNode, type TestNode } from "../fixtures/pods.ts";

const BRIDGE = "crib-other";

interface Side {
  node: TestNode;
  pods: MadePod[];
  containers: MadeContainer[];
  addresses: string[];
}

let nodes: TestNode[] = [];

beforeAll(async () => {
  const first = await startNode();
  nodes = [first];
  const second = await startNode();
  nodes.push(second);
  const file = join(second.directory, "cni/10-test.conflist");
  const network = JSON.parse(readFileSync(file, "utf8"));
  network.name = "other";
  network.plugins[0].bridge = BRIDGE;
  network.plugins[0].ipam.ranges[0][0].subnet = "10.90.0.0/16";
  writeFileSync(file, JSON.stringify(network));
  await second.restart();
});
afterAll(async () => {
  for (const node of nodes) await node.stop();
  Bun.spawnSync(["ip", "link", "del", BRIDGE], { stdio: ["ignore", "ignore", "ignore"] });
});

/** Two pods with a container each, by the names that the other daemon's have too. */
async function populate(node: TestNode): Promise<Side> {
  const side: Side = { node, pods: [], containers: [], addresses: [] };
  for (const name of ["one", "two"]) {
    const pod = await node.pod({ metadata: { name, namespace: "default", uid: name, attempt: 0 } });
    side.pods.push(pod);
    side.containers.push(await node.run(pod, { metadata: { name: "main", attempt: 0 } }));
    const { status } = await node.runtime.podSandboxStatus({ podSandboxId: pod.id });
    side.addresses.push(status?.network?.ip ?? "");
  }
  return side;
}

/** All that it made is there, and answers; nothing else is. */
async function expectWhole({ node, pods, containers, addresses }: Side): Promise<void> {
  const { items } = await node.runtime.listPodSandbox({});
  expect(items.map(({ id }) => id).sort()).toEqual(pods.map(({ id }) => id).sort());
  const listed = await node.runtime.listContainers({});
  expect(listed.containers.map(({ id }) => id).sort()).toEqual(
    containers.map(({ id }) => id).sort(),
  );
  for (const [index, { id }] of containers.entries()) {
    const cmd = ["cat", "/proc/net/fib_trie"];
    const { exitCode, stdout } = await node.runtime.execSync({ containerId: id, cmd });
    expect(exitCode).toBe(0);
    expect(Buffer.from(stdout).toString()).toContain(`${addresses[index]}\n`);
  }
  for (const { id } of pods) {
    const { status } = await node.runtime.podSandboxStatus({ podSandboxId: id });
    expect(status?.state).toBe(0);
  }
}

test("daemons with pods of the same names know, restart and remove only their own", async () => {
  const [first, second] = await Promise.all(nodes.map(populate));
  if (first === undefined || second === undefined) throw new Error("there are two");
  expect(first.addresses.every((it) => it.startsWith("10.89."))).toBe(true);
  expect(second.addresses.every((it) => it.startsWith("10.90."))).toBe(true);
  // A start collects what no pod has, a start after another boot even more.
  await first.node.restart();
  await expectWhole(first);
  await expectWhole(second);
  await second.node.kill();
  writeFileSync(join(second.node.crib.root, "session"), "another boot\n");
  await second.node.start();
  await expectWhole(first);
  await expectWhole(second);
  await first.node.removeAll();
  await expectWhole({ ...first, pods: [], containers: [] });
  await expectWhole(second);
});
