/** The daemon is killed at any moment and started again; containers do not notice. */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ContainerState } from "../../src/gen/runtime/v1/container_pb.ts";
import { PodSandboxState } from "../../src/gen/runtime/v1/pod_sandbox_pb.ts";
import { NamespaceMode } from "../../src/gen/runtime/v1/security_pb.ts";
import { type MadeContainer, refusal, startNode, type TestNode } from "../fixtures/pods.ts";
import { until } from "../fixtures/until.ts";

let node: TestNode;

beforeAll(async () => {
  node = await startNode();
});

afterEach(async () => {
  for (const gate of ["cni-add", "cni-del", "create", "start", "started", "delete"] as const) {
    node.open(gate);
  }
  expect(await node.cleaned()).toEqual([]);
});

afterAll(async () => {
  await node.stop();
});

const sh = (script: string) => ({ command: ["sh", "-c", script] });

async function podStates(): Promise<PodSandboxState[]> {
  return (await node.runtime.listPodSandbox({})).items.map(({ state }) => state);
}

test("containers live on without a daemon: state, log, exec, exits, stop", async () => {
  const pod = await node.pod({ labels: { keep: "me" } });
  const counting = await node.run(
    pod,
    sh("trap 'exit 4' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done"),
  );
  const ending = await node.run(pod, sh("while [ ! -e /end ]; do sleep 0.05; done; exit 33"));
  const created = await node.create(pod);
  const dead = await node.run(pod, sh("exit 12"));
  const before = {
    pod: (await node.runtime.podSandboxStatus({ podSandboxId: pod.id })).status,
    dead: await node.exited(dead),
    counting: await node.status(counting),
    created: await node.status(created),
  };
  await until("some lines", () => counting.log().length > 20);
  const { info } = await node.runtime.containerStatus({ containerId: ending.id, verbose: true });
  const { root } = JSON.parse(info.info ?? "") as { root: string };
  await node.kill();
  const lines = counting.log().length;
  const beforeExit = BigInt(Date.now()) * 1_000_000n;
  await Bun.write(`${root}/end`, "");
  await until("lines without a daemon", () => counting.log().length > lines + 20);
  await until(
    "the exit record",
    () => Bun.spawnSync(["find", node.directory, "-path", `*exits/${ending.id}`]).stdout.length > 0,
  );
  const afterExit = BigInt(Date.now()) * 1_000_000n;
  await node.start();

  expect((await node.runtime.podSandboxStatus({ podSandboxId: pod.id })).status).toEqual(
    before.pod,
  );
  expect(await node.status(dead)).toEqual(before.dead);
  expect(await node.status(counting)).toEqual(before.counting);
  expect(await node.status(created)).toEqual(before.created);
  const ended = await node.status(ending);
  expect(ended).toMatchObject({
    state: ContainerState.CONTAINER_EXITED,
    exitCode: 33,
    reason: "Error",
  });
  expect(ended.finishedAt > beforeExit && ended.finishedAt < afterExit).toBe(true);
  expect(await node.sh(counting, "echo in")).toBe("in\n");
  await node.runtime.startContainer({ containerId: created.id });
  expect((await node.status(created)).state).toBe(ContainerState.CONTAINER_RUNNING);
  await node.runtime.stopContainer({ containerId: counting.id, timeout: 60n });
  expect((await node.status(counting)).exitCode).toBe(4);
  expect(counting.log().map(({ text }) => text)).toEqual(
    Array.from({ length: counting.log().length }, (_, index) => `${index + 1}`),
  );
  const more = await node.run(pod, { command: ["true"] });
  expect((await node.exited(more)).exitCode).toBe(0);
});

test("a daemon that is told to end leaves containers alone, too", async () => {
  const pod = await node.pod();
  const container = await node.run(pod);
  const { id, config } = pod;
  process.kill(node.crib.pid, "SIGTERM");
  await until("its end", () => node.crib.log().includes("crib is down"));
  await node.start();
  expect((await node.status(container)).state).toBe(ContainerState.CONTAINER_RUNNING);
  expect(await podStates()).toEqual([PodSandboxState.SANDBOX_READY]);
  await node.remove({ id, config });
});

test("a kill in the middle of RunPodSandbox leaves nothing, and the name is free", async () => {
  const config = node.podConfig();
  node.close("cni-add");
  const lost = refusal(node.runtime.runPodSandbox({ config }));
  await node.reached("cni-add");
  expect(node.leftovers().filter((line) => line.startsWith("IP "))).toHaveLength(1);
  await node.kill();
  await lost;
  await node.start();
  expect((await node.runtime.listPodSandbox({})).items).toEqual([]);
  node.open("cni-add");
  await until("nothing is left", () => node.leftovers().length === 0);
  await node.runtime.runPodSandbox({ config });
});

test("what cannot be undone at the start is tried again, and its name is free", async () => {
  const config = node.podConfig();
  node.close("cni-add");
  const lost = refusal(node.runtime.runPodSandbox({ config }));
  await node.reached("cni-add");
  await node.kill();
  await lost;
  node.close("cni-del", "fail");
  node.open("cni-add");
  await node.start();
  expect((await node.runtime.listPodSandbox({})).items).toEqual([]);
  const { podSandboxId } = await node.runtime.runPodSandbox({ config });
  node.open("cni-del");
  await node.runtime.removePodSandbox({ podSandboxId });
  await until("nothing is left", () => node.leftovers().length === 0);
});

/** What an OCI runtime that is killed in the middle has made, and written down nowhere. */
function makeCgroups(containerId: string): void {
  for (const tree of readdirSync("/sys/fs/cgroup")) {
    const parent = join("/sys/fs/cgroup", tree, node.cgroupParent);
    if (existsSync(parent)) mkdirSync(join(parent, `crio-${containerId}`), { recursive: true });
  }
}

test("a kill in the middle of CreateContainer leaves nothing, and the name is free", async () => {
  const pod = await node.pod();
  const before = node.leftovers();
  const config = node.containerConfig();
  node.close("create");
  const lost = refusal(node.runtime.createContainer({ podSandboxId: pod.id, config }));
  await node.reached("create");
  makeCgroups(readdirSync(join(node.directory, "state/containers"))[0] ?? "");
  await node.kill();
  await lost;
  await node.start();
  expect((await node.runtime.listContainers({})).containers).toEqual([]);
  node.open("create");
  await node.runtime.status({});
  const kinds = (lines: string[]) => lines.map((line) => line.replace(/process \d+/, "process"));
  await until("the end of runc", () => !node.leftovers().join().includes("runc"));
  expect(kinds(node.leftovers())).toEqual(kinds(before));
  const { containerId } = await node.runtime.createContainer({ podSandboxId: pod.id, config });
  await node.runtime.startContainer({ containerId });
});

test("a container whose start nobody wrote down is found running, or with its exit", async () => {
  const pod = await node.pod();
  const long = await node.create(pod);
  const short = await node.create(pod, sh("exit 21"));
  const waiting = await node.create(pod);
  node.close("started");
  const lost = [long, short].map(({ id }) =>
    refusal(node.runtime.startContainer({ containerId: id })),
  );
  await until("two at the gate", () => runcs("start") === 2);
  node.close("start");
  lost.push(refusal(node.runtime.startContainer({ containerId: waiting.id })));
  await node.reached("start");
  await node.kill();
  await Promise.all(lost);
  await node.start();
  expect((await node.status(long)).state).toBe(ContainerState.CONTAINER_RUNNING);
  expect((await node.status(long)).startedAt > 0n).toBe(true);
  const ended = await node.exited(short);
  expect(ended).toMatchObject({ exitCode: 21, reason: "Error" });
  expect(ended.startedAt > 0n && ended.startedAt <= ended.finishedAt).toBe(true);
});

test("a container that ran and ended while there was no daemon is known to have been started", async () => {
  const pod = await node.pod();
  const container = await node.create(pod, sh("echo ran; exit 22"));
  node.close("start");
  const lost = refusal(node.runtime.startContainer({ containerId: container.id }));
  await node.reached("start");
  await node.kill();
  await lost;
  // The runtime outlives the daemon, and lets the container go.
  node.open("start");
  await until("its only line", () => container.log().length === 1);
  await until("the end of the runtime", () => runcs("start") === 0);
  await node.start();
  const ended = await node.exited(container);
  expect(ended).toMatchObject({ exitCode: 22, reason: "Error" });
  expect(ended.startedAt > 0n && ended.startedAt <= ended.finishedAt).toBe(true);
});

test("a start that a killed daemon had begun wins against its repetition, and the exit is the true one", async () => {
  // The child holds the log open: the exit is told long after the runtime knows of it.
  const pod = await node.pod({ linux: {} });
  const linux = { securityContext: { namespaceOptions: { pid: NamespaceMode.POD } } };
  const container = await node.create(pod, { ...sh("echo ran; sleep 4 & exit 23"), linux });
  node.close("start");
  const lost = refusal(node.runtime.startContainer({ containerId: container.id }));
  await node.reached("start");
  const [first] = runcPids("start");
  await node.kill();
  await lost;
  await node.start();
  const again = node.runtime.startContainer({ containerId: container.id });
  await until("both at the gate", () => runcs("start") === 2);
  const second = runcPids("start").find((pid) => pid !== first) ?? 0;
  process.kill(second, "SIGSTOP");
  node.open("start");
  await until("its only line", () => container.log().length === 1);
  await until("the end of the first runtime", () => runcs("start") === 1);
  process.kill(second, "SIGCONT");
  await again;
  expect(await node.exited(container)).toMatchObject({ exitCode: 23, reason: "Error" });
});

/** The runtime commands of this kind that run now. */
function runcPids(verb: string): number[] {
  return readdirSync("/proc").flatMap((name) => {
    try {
      const line = readFileSync(`/proc/${Number(name)}/cmdline`, "utf8").replaceAll("\0", " ");
      return line.includes("bin/runc-gate --root") && line.includes(` ${verb} `)
        ? [Number(name)]
        : [];
    } catch {
      return [];
    }
  });
}

const runcs = (verb: string) => runcPids(verb).length;

test("a client that never heard of its container gets it after the restart", async () => {
  const pod = await node.pod();
  const config = node.containerConfig();
  const request = { podSandboxId: pod.id, config };
  const { containerId } = await node.runtime.createContainer(request);
  await node.restart();
  expect((await node.runtime.createContainer(request)).containerId).toBe(containerId);
});

test("a kill while a pod is being stopped: the stop is finished", async () => {
  const pod = await node.pod();
  const container = await node.run(pod);
  node.close("cni-del");
  const lost = refusal(node.runtime.stopPodSandbox({ podSandboxId: pod.id }));
  await node.reached("cni-del");
  await node.kill();
  await lost;
  await node.start();
  expect(await podStates()).toEqual([PodSandboxState.SANDBOX_NOTREADY]);
  node.open("cni-del");
  expect((await node.exited(container)).exitCode).toBe(137);
  await until("its address is given back", () => !node.leftovers().join().includes("IP "));
});

test("kills at random moments lose nothing and leave nothing", async () => {
  const ends: Array<{ container: MadeContainer; code: number }> = [];
  for (let round = 0; round < 15; round += 1) {
    const work = (async () => {
      const pod = await node.pod();
      for (let code = 1; code < 4; code += 1) {
        const container = await node.create(pod, sh(`exit ${code}`));
        await node.runtime.startContainer({ containerId: container.id });
        ends.push({ container, code });
      }
      if (round % 3 === 0) await node.remove(pod);
    })().catch(() => undefined);
    await Bun.sleep(Math.random() * 350);
    await node.kill();
    await work;
    await node.start({}, false);
  }
  const { containers } = await node.runtime.listContainers({});
  for (const { container, code } of ends) {
    if (!containers.some(({ id }) => id === container.id)) continue;
    expect(await node.exited(container)).toMatchObject({ exitCode: code, reason: "Error" });
  }
  // Whatever was not started is still there to be started or removed.
  for (const { state } of containers) expect(state).not.toBe(ContainerState.CONTAINER_UNKNOWN);
}, 60_000);
