import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { existsSync, renameSync } from "node:fs";
import { Signal } from "../../src/gen/runtime/v1/container_config_pb.ts";
import { ContainerState } from "../../src/gen/runtime/v1/container_pb.ts";
import { type MadePod, refusal, startNode, type TestNode } from "../fixtures/pods.ts";
import { until } from "../fixtures/until.ts";

let node: TestNode;
let pod: MadePod;

beforeAll(async () => {
  node = await startNode({ set: { "container.exec_output_limit_bytes": "1000" } });
  pod = await node.pod();
});

afterEach(async () => {
  const { containers } = await node.runtime.listContainers({});
  await Promise.all(containers.map(({ id }) => node.runtime.removeContainer({ containerId: id })));
});

afterAll(async () => {
  try {
    await node.remove(pod);
    expect(node.leftovers()).toEqual([]);
  } finally {
    await node.stop();
  }
});

const sh = (script: string) => ({ command: ["sh", "-c", script] });
/** A program that says when it is ready, so that signals find its handlers. */
const trapping = (trap: string) => sh(`${trap}; echo ready; while :; do sleep 0.05; done`);

async function ready(container: { log(): unknown[] }) {
  await until("the container's first line", () => container.log().length > 0);
}

test("a container goes from created over running to exited, with its code, reason and times", async () => {
  const container = await node.create(pod, sh("exit 42"));
  const created = await node.status(container);
  expect(created.state).toBe(ContainerState.CONTAINER_CREATED);
  expect([created.startedAt, created.finishedAt]).toEqual([0n, 0n]);
  await node.runtime.startContainer({ containerId: container.id });
  const exited = await node.exited(container);
  expect(exited).toMatchObject({ exitCode: 42, reason: "Error", imageId: node.pushed?.id });
  expect(exited.createdAt <= exited.startedAt && exited.startedAt <= exited.finishedAt).toBe(true);
  const start = node.runtime.startContainer({ containerId: container.id });
  expect(await refusal(start)).toMatchObject({ code: "FailedPrecondition" });
});

test("exit code 0 is Completed; a signal is 128 more than its number", async () => {
  const done = await node.run(pod, { command: ["true"] });
  expect(await node.exited(done)).toMatchObject({ exitCode: 0, reason: "Completed" });
  // Not the first process of its PID namespace, which signals itself in vain.
  const host = { securityContext: { namespaceOptions: { pid: 2 } } };
  const other = await node.pod({ linux: host });
  const aborted = await node.run(other, { ...sh("kill -SEGV $$"), linux: host });
  expect(await node.exited(aborted)).toMatchObject({ exitCode: 139, reason: "Error" });
  await node.remove(other);
});

test("a container that takes more memory than its limit is OOMKilled", async () => {
  const container = await node.run(pod, {
    ...sh("dd if=/dev/zero of=/dev/null bs=200M count=1; exit $?"),
    linux: {
      resources: { memoryLimitInBytes: 20_000_000n },
      securityContext: { namespaceOptions: { pid: 1 } },
    },
  });
  expect(await node.exited(container)).toMatchObject({ exitCode: 137, reason: "OOMKilled" });
});

test("a program that is not there cannot be started, and says why", async () => {
  const call = node.run(pod, { command: ["/nonexistent"] });
  const { message } = await refusal(call);
  expect(message).toContain("/nonexistent");
});

test("a container is asked with SIGTERM and has its grace to end by itself", async () => {
  const container = await node.run(pod, trapping("trap 'echo bye; exit 3' TERM"));
  await ready(container);
  await node.runtime.stopContainer({ containerId: container.id, timeout: 60n });
  expect(await node.status(container)).toMatchObject({ exitCode: 3, reason: "Error" });
  expect(container.log().map(({ text }) => text)).toEqual(["ready", "bye"]);
});

test("the stop signal of the container is used, and reported", async () => {
  const container = await node.run(pod, {
    ...trapping("trap 'exit 5' USR1; trap 'exit 6' TERM"),
    stopSignal: Signal.SIGUSR1,
  });
  await ready(container);
  await node.runtime.stopContainer({ containerId: container.id, timeout: 60n });
  expect(await node.status(container)).toMatchObject({ exitCode: 5, stopSignal: Signal.SIGUSR1 });
});

test("a container that ignores SIGTERM is killed after its grace", async () => {
  const container = await node.run(pod, trapping("trap '' TERM"));
  await ready(container);
  await node.runtime.stopContainer({ containerId: container.id, timeout: 1n });
  expect(await node.status(container)).toMatchObject({ exitCode: 137, reason: "Error" });
});

test("a second stop shortens the first one's grace, and never prolongs it", async () => {
  const container = await node.run(pod, trapping("trap '' TERM"));
  await ready(container);
  const { id: containerId } = container;
  const patient = node.runtime.stopContainer({ containerId, timeout: 100_000n });
  await Bun.sleep(50);
  await node.runtime.stopContainer({ containerId, timeout: 0n });
  await patient;
  expect(await node.status(container)).toMatchObject({ exitCode: 137 });
});

test("a container that was never started can be stopped and removed", async () => {
  const container = await node.create(pod);
  await node.runtime.stopContainer({ containerId: container.id, timeout: 60n });
  expect(await node.status(container)).toMatchObject({ exitCode: 137, startedAt: 0n });
});

test("a running container's log is reopened also while it is being stopped", async () => {
  const container = await node.run(pod, trapping("trap 'echo asked' TERM"));
  await ready(container);
  const { id: containerId, logPath } = container;
  const stopping = node.runtime.stopContainer({ containerId, timeout: 1_000n });
  await until("the signal's effect", () => container.log().length === 2);
  renameSync(logPath, `${logPath}.1`);
  await node.runtime.reopenContainerLog({ containerId });
  expect(existsSync(logPath)).toBe(true);
  await node.sh(container, "echo after > /proc/1/fd/1");
  await until("a line in the new log", () => container.log().length === 1);
  expect(container.log()).toEqual([{ stream: "stdout", tag: "F", text: "after" }]);
  await node.runtime.stopContainer({ containerId, timeout: 0n });
  await stopping;
  const closed = node.runtime.reopenContainerLog({ containerId });
  expect(await refusal(closed)).toMatchObject({ code: "FailedPrecondition" });
});

test("long lines are split and marked partial, the last part full; stderr is apart", async () => {
  const container = await node.run(
    pod,
    sh(
      "dd if=/dev/zero bs=40000 count=1 2>/dev/null | tr '\\0' x; echo; echo oops >&2; echo -n end",
    ),
  );
  await node.exited(container);
  const lines = container.log();
  const long = lines.filter(({ text }) => text.startsWith("x"));
  expect(long.map(({ text }) => text).join("")).toBe("x".repeat(40_000));
  expect(long.map(({ tag }) => tag)).toEqual([...long.slice(1).map(() => "P"), "F"]);
  expect(long.length).toBeGreaterThan(1);
  expect(lines.find(({ stream }) => stream === "stderr")).toMatchObject({ tag: "F", text: "oops" });
  expect(lines.find(({ text }) => text === "end")?.stream).toBe("stdout");
});

test("exec gives output, exit code and environment of a command", async () => {
  const container = await node.run(pod, { envs: [{ key: "GREETING", value: Buffer.from("hi") }] });
  const { stdout, stderr, exitCode } = await node.runtime.execSync({
    containerId: container.id,
    cmd: ["sh", "-c", "echo $GREETING; echo bad >&2; exit 7"],
  });
  expect([Buffer.from(stdout).toString(), Buffer.from(stderr).toString(), exitCode]).toEqual([
    "hi\n",
    "bad\n",
    7,
  ]);
});

test("exec output is cut at the limit, and the command runs to its end", async () => {
  const container = await node.run(pod);
  const { stdout, exitCode } = await node.runtime.execSync({
    containerId: container.id,
    cmd: ["sh", "-c", "dd if=/dev/zero bs=1M count=3 2>/dev/null; exit 9"],
  });
  expect([stdout.length, exitCode]).toEqual([1000, 9]);
});

test("an exec that takes too long is killed with its children", async () => {
  const container = await node.run(pod);
  const call = node.runtime.execSync({
    containerId: container.id,
    cmd: ["sh", "-c", "sleep 777 & sleep 778"],
    timeout: 1n,
  });
  expect(await refusal(call)).toMatchObject({
    code: "DeadlineExceeded",
    message: expect.stringContaining("1 s"),
  });
  await until("the command's end", async () => !(await node.sh(container, "ps")).includes("778"));
});

test("an exec that cannot run names the command", async () => {
  const container = await node.run(pod);
  const { id: containerId } = container;
  const missing = node.runtime.execSync({ containerId, cmd: ["nonexistent-program"] });
  expect(await refusal(missing)).toMatchObject({
    code: "FailedPrecondition",
    message: expect.stringContaining("nonexistent-program"),
  });
  for (const [request, code] of [
    [{ containerId, cmd: [] }, "InvalidArgument"],
    [{ containerId, cmd: ["true"], timeout: -1n }, "InvalidArgument"],
    [{ containerId: "", cmd: ["true"] }, "InvalidArgument"],
  ] as const) {
    expect(await refusal(node.runtime.execSync(request as never))).toMatchObject({ code });
  }
  await node.runtime.stopContainer({ containerId, timeout: 0n });
  const late = node.runtime.execSync({ containerId, cmd: ["true"] });
  expect(await refusal(late)).toMatchObject({ code: "FailedPrecondition" });
});

test("an exec that runs when its container ends is answered", async () => {
  const container = await node.run(pod);
  const call = node.runtime.execSync({ containerId: container.id, cmd: ["sleep", "1000"] });
  await until("the command", async () => (await node.sh(container, "ps")).includes("sleep 1000"));
  await Bun.sleep(100);
  await node.runtime.stopContainer({ containerId: container.id, timeout: 0n });
  const { exitCode } = await call;
  expect(exitCode).toBe(137);
});

test("an exec whose caller gives up is killed", async () => {
  const container = await node.run(pod);
  const abort = new AbortController();
  const call = refusal(
    node.runtime.execSync(
      { containerId: container.id, cmd: ["sh", "-c", "sleep 2345 & sleep 2345"] },
      { signal: abort.signal },
    ),
  );
  const runs = async () => (await node.sh(container, "ps")).includes("sleep 2345");
  await until("the command", runs);
  abort.abort();
  expect(await call).toMatchObject({ code: "Canceled" });
  await until("its end", async () => !(await runs()));
});

test("CPU and memory of a busy container rise", async () => {
  const container = await node.run(pod, sh("while :; do :; done"));
  const read = async () => {
    const { stats } = await node.runtime.containerStats({ containerId: container.id });
    return stats?.cpu?.usageCoreNanoSeconds?.value ?? 0n;
  };
  const first = await read();
  await until("more CPU time", async () => (await read()) > first + 50_000_000n);
  const { stats } = await node.runtime.listContainerStats({ filter: { id: container.id } });
  expect(stats).toHaveLength(1);
  expect(stats[0]?.memory?.workingSetBytes?.value).toBeGreaterThan(0n);
});

test("what a container writes is in its writable layer's statistics", async () => {
  const container = await node.run(pod, sh("dd if=/dev/zero of=/big bs=1M count=8; sleep 1000"));
  await until("eight megabytes", async () => {
    const { stats } = await node.runtime.containerStats({ containerId: container.id });
    return (stats?.writableLayer?.usedBytes?.value ?? 0n) >= 8_000_000n;
  });
});

test("the files of a container that has many are counted by a process of the daemon's", async () => {
  const many =
    "mkdir /many; for i in $(seq 1 1000); do mkdir /many/$i; done; echo made; sleep 1000";
  const container = await node.run(pod, sh(many));
  await until("all of them", () => container.log().some(({ text }) => text === "made"), 60_000);
  await until(
    "their number",
    async () => {
      const { stats } = await node.runtime.containerStats({ containerId: container.id });
      return (stats?.writableLayer?.inodesUsed?.value ?? 0n) > 1000n;
    },
    60_000,
  );
}, 90_000);
