/** What a monitor may cost, as far as it does not depend on how fast the machine is. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { pssKib } from "../bench/memory.ts";
import { type MadePod, startNode, type TestNode } from "../fixtures/pods.ts";
import { until } from "../fixtures/until.ts";
import { buildMonitor, parseLog, read, readText, TestPod } from "./monitor-harness.ts";

/** After this long a monitor has given back what it does not need. */
const REST_MS = 2_500;
const IDLE_MS = 5_000;
const EXECS = 20;

let node: TestNode;

beforeAll(async () => {
  node = await startNode();
});
afterAll(async () => node.stop());

async function monitorOf(pod: MadePod): Promise<number> {
  const { info } = await node.runtime.podSandboxStatus({ podSandboxId: pod.id, verbose: true });
  return (JSON.parse(info.info ?? "") as { pid: number }).pid;
}

/** A pod that does nothing. */
async function quietPod(containers: number): Promise<number> {
  const pod = await node.pod();
  for (let count = 0; count < containers; count++) await node.run(pod);
  return monitorOf(pod);
}

/** What watches a pod that shares its PIDs: the monitor, and the pause process that it has made. */
async function sharingPod(): Promise<number[]> {
  const pod = await node.pod({ linux: { securityContext: { namespaceOptions: { pid: 0 } } } });
  await node.run(pod, { linux: { securityContext: { namespaceOptions: { pid: 0 } } } });
  const monitor = await monitorOf(pod);
  const pause = childrenOf(monitor).find((child) => programOf(child).startsWith("crib-pause"));
  if (pause === undefined) throw new Error("the pod has no pause process");
  return [monitor, pause];
}

/** How often it has run. */
function switches(pid: number): number {
  const counts = readFileSync(`/proc/${pid}/status`, "utf8").matchAll(/_switches:\s+(\d+)/g);
  return [...counts].reduce((sum, [, count]) => sum + Number(count), 0);
}

/** All living processes that a process has started, and that have not been replaced. */
function childrenOf(pid: number): number[] {
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8");
  return text.trim().split(" ").filter(Boolean).map(Number);
}

const programOf = (pid: number) => readText(`/proc/${pid}/cmdline`);

const threadsOf = (pid: number) => readdirSync(`/proc/${pid}/task`).length;

test("memory of a pod's monitor, alone on the node and among others, and no wake-ups", async () => {
  const alone = await quietPod(1);
  await Bun.sleep(REST_MS);
  const first = pssKib(alone);
  const three = await quietPod(3);
  const others = [await quietPod(1), await quietPod(1)];
  const sharing = await sharingPod();
  await Bun.sleep(REST_MS);
  const figures = {
    first,
    alone: pssKib(alone),
    others: others.map(pssKib),
    three: pssKib(three),
    sharing: sharing.map(pssKib),
  };
  process.stderr.write(`monitor-budgets: PSS in KiB ${JSON.stringify(figures)}\n`);
  for (const pss of [first, figures.alone, ...figures.others]) expect(pss).toBeLessThanOrEqual(100);
  expect(figures.three).toBeLessThanOrEqual(150);
  expect(figures.sharing.reduce((sum, pss) => sum + pss)).toBeLessThanOrEqual(100);

  const pids = [alone, three, ...others, ...sharing];
  const before = pids.map(switches);
  await Bun.sleep(IDLE_MS);
  expect(pids.map(switches)).toEqual(before);
  for (const pid of pids) expect(threadsOf(pid)).toBe(1);
  expect(pids.map((pid) => childrenOf(pid).length)).toEqual([1, 3, 1, 1, 2, 0]);
  await node.removeAll();
});

/** One of each kind: in frames, with streams, with a terminal; and an attached client. */
async function bustle(pod: TestPod, id: string): Promise<void> {
  expect(await pod.exec(id, ["echo", "x"])).toMatchObject({ exitCode: 0, stdout: "x\n" });
  const streams = await pod.execLive(id, ["echo", "y"]);
  expect(await read(streams.io)).toBe("y\n");
  await streams.ended;
  streams.close();
  const tty = await pod.execLive(id, ["echo", "z"], { stdin: true, stdout: true, tty: true });
  expect(await read(tty.io)).toBe("z\r\n");
  await tty.ended;
  tty.close();
  const wants = { stdin: false, stdout: true, stderr: true, tty: false };
  const attached = await pod.monitor.attach(id, wants);
  await pod.monitor.list();
  attached.close();
  await attached.ended;
}

test("execs of each kind and attaches leave no memory, process, thread or descriptor behind", async () => {
  const pod = await TestPod.start(buildMonitor());
  try {
    const id = await pod.run({ args: ["sleep", "1000"] });
    const { pid } = pod.monitor;
    const descriptors = () => readdirSync(`/proc/${pid}/fd`).length;
    // Each kind needs its place once.
    await bustle(pod, id);
    await Bun.sleep(REST_MS);
    const before = { pss: pssKib(pid), descriptors: descriptors(), children: childrenOf(pid) };
    for (let round = 0; round < EXECS; round++) await bustle(pod, id);
    await Bun.sleep(REST_MS);
    expect(pssKib(pid)).toBeLessThanOrEqual(before.pss);
    await until("no more descriptors", () => descriptors() === before.descriptors);
    expect(childrenOf(pid)).toEqual(before.children);
    expect(threadsOf(pid)).toBe(1);
  } finally {
    await pod.dispose();
  }
});

test("while an exec runs there is its process, and nothing else", async () => {
  const pod = await TestPod.start(buildMonitor());
  try {
    const id = await pod.run({ args: ["sleep", "1000"] });
    const [record] = await pod.monitor.list();
    const running = [
      await pod.execLive(id, ["sh", "-c", "echo on; read x"], { stdin: true, stdout: true }),
      await pod.execLive(id, ["sh", "-c", "echo on; read x"], {
        stdin: true,
        stdout: true,
        tty: true,
      }),
    ];
    for (const live of running) await new Promise((resolve) => live.io?.once("data", resolve));
    const others = () => childrenOf(pod.monitor.pid).filter((child) => child !== record?.pid);
    const programs = () => others().map((child) => programOf(child));
    const expected = running.map(() => "sh\0-c\0echo on; read x\0");
    // The process may speak while the OCI runtime that made it is still ending.
    await until("no process of the OCI runtime", () => isDeepStrictEqual(programs(), expected));
    for (const live of running) {
      live.io?.write("\n");
      await live.ended;
      live.close();
    }
  } finally {
    await pod.dispose();
  }
});

test("no line is cut that is not longer than 16 KiB, however it comes", async () => {
  const pod = await TestPod.start(buildMonitor());
  try {
    const line = "x".repeat(999);
    const id = await pod.run({ args: ["sh", "-c", `yes ${line} | head -n 20000; echo end`] });
    await pod.exited(id);
    const records = parseLog(pod.log(id));
    expect(records.filter(({ tag }) => tag === "P").length).toBe(0);
    expect(records.length).toBe(20_001);
    expect(records.slice(0, -1).every(({ content }) => content === line)).toBe(true);
  } finally {
    await pod.dispose();
  }
});
