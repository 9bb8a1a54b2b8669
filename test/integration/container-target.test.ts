/** Containers in the PID namespace of another one, and monitors: they may end, and others get their numbers. */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { readlinkSync } from "node:fs";
import { NamespaceMode } from "../../src/gen/runtime/v1/security_pb.ts";
import { isMonitor } from "../../src/monitor/start.ts";
import { mountsBelow } from "../fixtures/leftovers.ts";
import { type ContainerConfig, refusal, startNode, type TestNode } from "../fixtures/pods.ts";
import { endNumber, takeNumber } from "../fixtures/process-numbers.ts";
import { until } from "../fixtures/until.ts";

let node: TestNode;

beforeAll(async () => {
  node = await startNode();
});

afterEach(async () => {
  node.open("create");
  expect(await node.cleaned()).toEqual([]);
});

afterAll(async () => {
  await node.stop();
});

const into = (targetId: string): ContainerConfig => ({
  linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.TARGET, targetId } } },
});

async function pidOf({ id }: { id: string }): Promise<number> {
  const { info } = await node.runtime.containerStatus({ containerId: id, verbose: true });
  return (JSON.parse(info.info ?? "") as { pid: number }).pid;
}

const pidNamespace = (pid: number) => readlinkSync(`/proc/${pid}/ns/pid`);

test("a container sees its target's processes, and nothing stays mounted for that", async () => {
  const pod = await node.pod();
  const target = await node.run(pod);
  const mounts = mountsBelow(node.directory).length;
  const container = await node.run(pod, { ...into(target.id), command: ["sleep", "2000"] });
  expect(pidNamespace(await pidOf(container))).toBe(pidNamespace(await pidOf(target)));
  expect(await node.sh(container, "ps")).toMatch(/\b1 .*sleep 1000/);
  // Its root file system.
  expect(mountsBelow(node.directory)).toHaveLength(mounts + 1);
});

test("a target that ends, and whose number another process gets, is not taken for that", async () => {
  const pod = await node.pod();
  const target = await node.run(pod);
  const pid = await pidOf(target);
  node.close("create");
  const creation = refusal(node.create(pod, into(target.id)));
  await node.reached("create");
  process.kill(pid, "SIGKILL");
  await node.exited(target);
  takeNumber(pid);
  expect(pidNamespace(pid)).toBe(pidNamespace(process.pid));
  node.open("create");
  const refused = await creation.finally(() => endNumber(pid));
  expect(refused.code).toBe("FailedPrecondition");
  expect(refused.message).toContain(`namespace_options.target_id: container ${target.id}`);
  expect((await node.runtime.listContainers({})).containers.map(({ id }) => id)).toEqual([
    target.id,
  ]);
});

test("a daemon that is killed while such a container is made leaves nothing of it", async () => {
  const pod = await node.pod();
  const target = await node.run(pod);
  node.close("create");
  const lost = refusal(node.create(pod, into(target.id)));
  await node.reached("create");
  expect(mountsBelow(node.directory).some((path) => path.endsWith("/ns-target"))).toBe(true);
  await node.kill();
  await lost;
  node.open("create");
  await node.start();
  await until(
    "no pin",
    () => !mountsBelow(node.directory).some((path) => path.endsWith("/ns-target")),
  );
  await node.run(pod, into(target.id));
});

test("a pod's monitor is known by its arguments, not by its number", async () => {
  const pod = await node.pod();
  const { info } = await node.runtime.podSandboxStatus({ podSandboxId: pod.id, verbose: true });
  const { pid } = JSON.parse(info.info ?? "") as { pid: number };
  expect([isMonitor(pid, pod.id), isMonitor(pid, "another")]).toEqual([true, false]);
  await node.remove(pod);
  takeNumber(pid);
  const taken = isMonitor(pid, pod.id);
  await endNumber(pid);
  expect(taken).toBe(false);
});
