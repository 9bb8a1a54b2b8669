import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { ContainerState } from "../../src/gen/runtime/v1/container_pb.ts";
import { PodSandboxState } from "../../src/gen/runtime/v1/pod_sandbox_pb.ts";
import { refusal, startNode, type TestNode } from "../fixtures/pods.ts";
import { until } from "../fixtures/until.ts";

let node: TestNode;

beforeAll(async () => {
  node = await startNode();
});

afterEach(async () => {
  expect(await node.cleaned()).toEqual([]);
});

afterAll(async () => {
  await node.stop();
});

test("a pod has an address, its own namespaces and the state ready, and leaves nothing", async () => {
  const pod = await node.pod({ hostname: "web" });
  const { status } = await node.runtime.podSandboxStatus({ podSandboxId: pod.id });
  expect(status?.state).toBe(PodSandboxState.SANDBOX_READY);
  expect(status?.network?.ip).toMatch(/^10\.89\./);
  const container = await node.run(pod);
  expect(await node.sh(container, "hostname")).toBe("web\n");
  expect(node.leftovers()).not.toEqual([]);
});

test("sysctls are set, in whichever form their names are", async () => {
  const sysctls = { "net/ipv4/ip_unprivileged_port_start": "81", "kernel.msgmax": "9000" };
  const linux = { sysctls, securityContext: { namespaceOptions: { pid: 1 } } };
  const container = await node.run(await node.pod({ linux }));
  const files = "/proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax";
  expect(await node.sh(container, `cat ${files}`)).toBe("81\n9000\n");
});

test("stopping and removing twice is fine, and so are unknown ids", async () => {
  const pod = await node.pod();
  const container = await node.run(pod);
  for (const timeout of [0n, 0n]) {
    await node.runtime.stopContainer({ containerId: container.id, timeout });
  }
  await node.runtime.removeContainer({ containerId: container.id });
  await node.runtime.removeContainer({ containerId: container.id });
  await node.runtime.stopPodSandbox({ podSandboxId: pod.id });
  await node.runtime.stopPodSandbox({ podSandboxId: pod.id });
  await node.runtime.removePodSandbox({ podSandboxId: pod.id });
  await node.runtime.removePodSandbox({ podSandboxId: pod.id });
  const unknown = "f".repeat(64);
  await node.runtime.stopContainer({ containerId: unknown });
  await node.runtime.removeContainer({ containerId: unknown });
  await node.runtime.stopPodSandbox({ podSandboxId: unknown });
  await node.runtime.removePodSandbox({ podSandboxId: unknown });
  for (const call of [
    node.runtime.podSandboxStatus({ podSandboxId: unknown }),
    node.runtime.containerStatus({ containerId: unknown }),
    node.runtime.startContainer({ containerId: unknown }),
    node.runtime.execSync({ containerId: unknown, cmd: ["true"] }),
    node.runtime.createContainer({ podSandboxId: unknown, config: node.containerConfig() }),
  ]) {
    expect(await refusal(call)).toMatchObject({ code: "NotFound" });
  }
});

test("removing takes what still runs with it", async () => {
  const pod = await node.pod();
  await node.run(pod);
  await node.run(pod, { command: ["sh", "-c", "trap '' TERM; sleep 1000"] });
  await node.runtime.removePodSandbox({ podSandboxId: pod.id });
  expect((await node.runtime.listContainers({})).containers).toEqual([]);
  expect(node.leftovers()).toEqual([]);
});

test("a stopped pod stays with its containers' ends, and takes no new ones", async () => {
  const pod = await node.pod();
  const running = await node.run(pod);
  const created = await node.create(pod);
  await node.runtime.stopPodSandbox({ podSandboxId: pod.id });
  const { status } = await node.runtime.podSandboxStatus({ podSandboxId: pod.id });
  expect(status?.state).toBe(PodSandboxState.SANDBOX_NOTREADY);
  expect(status?.network?.ip).toBe("");
  expect(await node.status(running)).toMatchObject({
    state: ContainerState.CONTAINER_EXITED,
    exitCode: 137,
    reason: "Error",
  });
  expect((await node.status(created)).state).toBe(ContainerState.CONTAINER_EXITED);
  for (const call of [node.create(pod), node.runtime.startContainer({ containerId: created.id })]) {
    expect(await refusal(call)).toMatchObject({ code: "FailedPrecondition" });
  }
  // What only a live pod needs is gone already.
  expect(node.leftovers().filter((line) => !/^(row|file .*containers)/.test(line))).toEqual([]);
});

test("stops and removals at the same time from several callers all succeed", async () => {
  const pod = await node.pod();
  const container = await node.run(pod, { command: ["sh", "-c", "trap '' TERM; sleep 1000"] });
  await Promise.all([
    node.runtime.stopContainer({ containerId: container.id, timeout: 30n }),
    node.runtime.stopPodSandbox({ podSandboxId: pod.id }),
    node.runtime.removeContainer({ containerId: container.id }),
    node.runtime.removePodSandbox({ podSandboxId: pod.id }),
    node.runtime.stopPodSandbox({ podSandboxId: pod.id }),
  ]);
  expect((await node.runtime.listPodSandbox({})).items).toEqual([]);
});

test("a failing CNI DEL makes the stop fail, and a later stop finishes it", async () => {
  const pod = await node.pod();
  node.close("cni-del", "fail");
  const stop = () => node.runtime.stopPodSandbox({ podSandboxId: pod.id });
  expect((await refusal(stop())).message).toContain("the gate says no");
  expect(node.leftovers().filter((line) => line.startsWith("IP "))).toHaveLength(1);
  node.open("cni-del");
  await stop();
  expect(node.leftovers().filter((line) => line.startsWith("IP "))).toEqual([]);
});

test("host namespaces are the host's, and nothing of them is touched", async () => {
  const options = { network: 2, pid: 2, ipc: 2 };
  const namespaces = { linux: { securityContext: { namespaceOptions: options } } };
  const pod = await node.pod(namespaces);
  const { status } = await node.runtime.podSandboxStatus({ podSandboxId: pod.id });
  expect(status?.network?.ip).toBe("");
  const container = await node.run(pod, namespaces);
  for (const name of ["net", "pid", "ipc", "uts"]) {
    const own = await node.sh(container, `stat -Lc %i /proc/self/ns/${name}`);
    const host = Bun.spawnSync(["stat", "-Lc", "%i", `/proc/self/ns/${name}`]).stdout.toString();
    expect(`${name} ${own}`).toBe(`${name} ${host}`);
  }
  expect(await node.sh(container, "cat /etc/hostname")).toBe(
    `${Bun.spawnSync(["hostname"]).stdout.toString().trim()}\n`,
  );
});

test("containers that share the pod's PID namespace see each other, and strays die with them", async () => {
  const shared = { linux: { securityContext: { namespaceOptions: { pid: 0 } } } };
  const pod = await node.pod(shared);
  const first = await node.run(pod, {
    ...shared,
    command: ["sh", "-c", "(trap '' TERM HUP; sleep 4321) & sleep 1"],
  });
  const second = await node.run(pod, shared);
  await until("the other container's process", async () =>
    (await node.sh(second, "ps")).includes("sleep 4321"),
  );
  expect(await node.exited(first)).toMatchObject({ exitCode: 0, reason: "Completed" });
  await until("the stray's end", async () => !(await node.sh(second, "ps")).includes("sleep 4321"));
  expect((await node.sh(second, "ps")).split("\n")[1]).toMatch(/^ *1 /);
});

test("a host port leads to the container", async () => {
  const pod = await node.pod({
    portMappings: [{ protocol: 0, containerPort: 80, hostPort: 18099 }],
  });
  await node.run(pod, { command: ["nc", "-l", "-p", "80", "-e", "echo", "hello from the pod"] });
  let answer = "";
  await until("an answer on the host port", () => {
    const script = "exec 3<>/dev/tcp/192.0.2.2/18099 && cat <&3";
    answer = Bun.spawnSync(["timeout", "5", "bash", "-c", script]).stdout.toString();
    return answer !== "";
  });
  expect(answer).toBe("hello from the pod\n");
  await node.remove(pod);
  const rules = Bun.spawnSync(["iptables-save", "-t", "nat"]).stdout.toString();
  expect(rules).not.toContain("18099");
});

test("log directories are made, and a pod without one has no logs", async () => {
  const pod = await node.pod({ logDirectory: "" });
  const container = await node.run(pod, { command: ["echo", "unheard"], logPath: "" });
  expect(await node.exited(container)).toMatchObject({ exitCode: 0, logPath: "" });
  const logged = await node.pod();
  const other = await node.run(logged, { command: ["echo", "heard"], logPath: "deep/down/0.log" });
  await node.exited(other);
  expect(existsSync(other.logPath)).toBe(true);
  expect(other.log()).toEqual([{ stream: "stdout", tag: "F", text: "heard" }]);
});
