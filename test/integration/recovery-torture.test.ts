/**
 * Many pods while the daemon and single monitors are killed at random moments: no line of a log, no
 * exit and nothing in the kernel may be lost or left behind; meanwhile logs are rotated and commands are
 * run in the containers. Needs root.
 *
 *   CRIB_TORTURE_PODS (40), CRIB_TORTURE_AT_ONCE (16), CRIB_TORTURE_SEED
 *
 * The seed makes the same pods and the same choices; when a kill meets them is up to the machine. With 500
 * pods and seed 811275 (230 s on two CPUs): 729 containers, 67 daemons and 91 monitors killed, 82 containers
 * cut off by that, 203 rotations, 112 execs; nothing lost, nothing left.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync, readFileSync, readlinkSync, renameSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ContainerState, type ContainerStatus } from "../../src/gen/runtime/v1/container_pb.ts";
import { NamespaceMode } from "../../src/gen/runtime/v1/security_pb.ts";
import { randomOf } from "../fixtures/fuzz.ts";
import { startNode, type TestNode } from "../fixtures/pods.ts";
import { checkLife, type Life, logOf, planOf, type Witness } from "../fixtures/torture.ts";

const PODS = Number(process.env.CRIB_TORTURE_PODS ?? "40");
const AT_ONCE = Number(process.env.CRIB_TORTURE_AT_ONCE ?? "16");
const SEED = Number(process.env.CRIB_TORTURE_SEED ?? Date.now() % 1_000_000);
/** The pause between two kills, at most. */
const PAUSE_MS = 2_500;
/** One kill in so many is the daemon's. */
const DAEMON_SHARE = 2;
const LIMIT_MS = 60_000 + PODS * 10_000;

let node: TestNode;
/** Rises with each death: a call that it interrupted is made again. */
let deaths = 0;
let daemonIsUp = true;
let logs = "";
/** Pods whose monitor was killed. */
const victims = new Set<string>();
const counts = { rotations: 0, execs: 0 };
/** Containers whose exit was on disk when their monitor was killed. */
const witnesses = new Map<string, Witness>();
/** A pod with a container that runs until it is stopped: its monitor is the first victim. */
const first = Promise.withResolvers<string>();

beforeAll(async () => {
  node = await startNode({ set: { "log.level": "debug" } });
}, 60_000);
afterAll(async () => node.stop());

/** Thrown where a pod's monitor was killed: nothing more is expected of it than a true end. */
class Orphaned extends Error {}

/** Makes a call as the kubelet would: again and again while the daemon is away. */
async function insist<T>(podId: string, call: () => Promise<T>): Promise<T> {
  for (;;) {
    const before = deaths;
    const wasUp = daemonIsUp;
    try {
      return await call();
    } catch (error) {
      if (victims.has(podId)) throw new Orphaned();
      if (before === deaths && wasUp) throw error;
      await sleep(50);
    }
  }
}

/** The same for what must work in the end with any pod. */
async function insistForAll<T>(call: () => Promise<T>): Promise<T> {
  return insist("", call);
}

function monitors(): Array<{ pid: number; podId: string }> {
  return readdirSync("/proc").flatMap((name) => {
    try {
      const argv = readFileSync(`/proc/${Number(name)}/cmdline`, "utf8").split("\0");
      const at = argv[0] === "crib-monitor" ? argv.indexOf("--id") : -1;
      return at < 0 ? [] : [{ pid: Number(name), podId: argv[at + 1] ?? "" }];
    } catch {
      return [];
    }
  });
}

/** Kills one by lot, or that of a pod; how many it has killed. */
function killMonitor(below: (limit: number) => number, podId?: string): number {
  const all = monitors().filter((monitor) => podId === undefined || monitor.podId === podId);
  const chosen = all[below(Math.max(1, all.length))];
  if (chosen === undefined) return 0;
  victims.add(chosen.podId);
  deaths += 1;
  const exits = join(node.directory, "state/pods", chosen.podId, "exits");
  for (const name of readNames(exits)) {
    try {
      const isCut = readFileSync(join(exits, name), "utf8").includes("logComplete");
      witnesses.set(name, isCut ? "log not complete" : "complete");
    } catch {
      // The daemon has taken it over just now.
    }
  }
  process.kill(chosen.pid, "SIGKILL");
  return 1;
}

/** Finished records; none where the pod is being made or removed. */
function readNames(exits: string): string[] {
  try {
    return readdirSync(exits).filter((name) => !name.startsWith("."));
  } catch {
    return [];
  }
}

/** Sometimes a monitor is killed while there is no daemon; how many that were. */
async function killDaemon(below: (limit: number) => number): Promise<number> {
  let killed = 0;
  deaths += 1;
  daemonIsUp = false;
  await node.kill();
  logs += node.crib.log();
  if (below(2) === 0) {
    await sleep(below(1_000));
    killed = killMonitor(below);
    await sleep(below(1_000));
  }
  await node.start({}, false);
  daemonIsUp = true;
  return killed;
}

/** What all daemons have said, for whoever looks for the reason of a failure. */
async function keepLogs<T>(body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    const path = resolve(import.meta.dir, `../.cache/torture-${SEED}.log`);
    await Bun.write(path, logs + node.crib.log());
    process.stderr.write(`torture: the daemons' log is in ${path}\n`);
    throw error;
  }
}

/** Kills until `done`; how often it killed whom. */
async function rage(done: () => boolean): Promise<{ daemons: number; monitors: number }> {
  const below = randomOf(SEED);
  const kills = { daemons: 0, monitors: 0 };
  kills.monitors += killMonitor(below, await first.promise);
  while (!done()) {
    await sleep(100 + below(PAUSE_MS));
    if (done()) break;
    if (below(DAEMON_SHARE) === 0) {
      kills.daemons += 1;
      kills.monitors += await killDaemon(below);
    } else {
      kills.monitors += killMonitor(below);
    }
  }
  return kills;
}

/** One pod from beginning to end; what became of its containers. */
async function live(index: number): Promise<Life[]> {
  const below = randomOf(SEED + 1 + index);
  const plan = planOf(below, index === 0 ? true : undefined);
  const options = { pid: NamespaceMode.CONTAINER, ipc: NamespaceMode.POD };
  const network = plan.hasNetwork ? NamespaceMode.POD : NamespaceMode.NODE;
  const config = node.podConfig({
    linux: { securityContext: { namespaceOptions: { ...options, network } } },
  });
  const pod = await insistForAll(async () => {
    const { podSandboxId } = await node.runtime.runPodSandbox({ config });
    return { id: podSandboxId, config };
  });
  const lives: Life[] = [];
  try {
    for (const container of plan.containers) {
      const made = await makeContainer(pod, container.command);
      const life: Life = { ...made, plan: container, logs: [made.logPath], started: false };
      lives.push(life);
      await insist(pod.id, () => start(life));
    }
    if (index === 0) {
      first.resolve(pod.id);
      while (!victims.has(pod.id)) await sleep(20);
    }
    for (const life of lives) {
      const meddling = meddle(pod.id, life, below);
      if (life.plan.isStopped) await meddling;
      await Promise.all([meddling, finish(pod.id, life)]);
    }
  } catch (error) {
    if (!(error instanceof Orphaned)) throw error;
  }
  const orphaned = victims.has(pod.id);
  for (const life of lives) {
    life.end = await exited(life);
    // Only now is it certain that nobody has killed its monitor before its end.
    const fate = { orphaned: orphaned || victims.has(pod.id), witness: witnesses.get(life.id) };
    checkLife(life, fate, `pod ${index}, seed ${SEED}`);
  }
  await insistForAll(() => node.remove(pod));
  return lives;
}

/** The configuration stays the same in each try: a daemon that was away finds what it has made. */
async function makeContainer(pod: { id: string; config: object }, command: string[]) {
  const config = node.containerConfig({ command });
  return insist(pod.id, () => node.create(pod, config));
}

async function start(life: Life): Promise<void> {
  try {
    await node.runtime.startContainer({ containerId: life.id });
  } catch (error) {
    // A call that was cut off may have done its work.
    const { startedAt, reason } = await node.status(life);
    if (startedAt === 0n || reason === "StartError") throw error;
  }
  life.started = true;
}

/** Rotates its log and runs commands in it: all must succeed, unless it ends of its own meanwhile. */
async function meddle(podId: string, life: Life, below: (limit: number) => number): Promise<void> {
  for (const what of life.plan.meanwhile) {
    await sleep(below(1_000));
    if (life.seen !== undefined) return;
    try {
      if (what === "rotate") await rotate(podId, life);
      else await execIn(podId, life);
    } catch (error) {
      if (victims.has(podId)) throw new Orphaned();
      if (life.plan.isStopped) throw error;
      await exited(life);
      return;
    }
  }
}

/** As the kubelet does it: the file goes, and another is asked for. */
async function rotate(podId: string, life: Life): Promise<void> {
  const rotated = `${life.logPath}.${life.logs.length}`;
  renameSync(life.logPath, rotated);
  life.logs.splice(-1, 0, rotated);
  await insist(podId, () => node.runtime.reopenContainerLog({ containerId: life.id }));
  counts.rotations += 1;
}

async function execIn(podId: string, life: Life): Promise<void> {
  const request = { containerId: life.id, cmd: ["sh", "-c", "echo out; echo err >&2; exit 3"] };
  const { stdout, stderr, exitCode } = await insist(podId, () => node.runtime.execSync(request));
  const text = { exitCode, out: `${Buffer.from(stdout)}`, err: `${Buffer.from(stderr)}` };
  if (!Bun.deepEquals(text, { exitCode: 3, out: "out\n", err: "err\n" })) {
    throw new Error(`exec in ${life.id}: ${JSON.stringify(text)}`);
  }
  counts.execs += 1;
}

/** Stops one that waits for it, and sees each to its end. */
async function finish(podId: string, life: Life): Promise<void> {
  if (life.plan.isStopped) {
    while (!logOf(life).endsWith(" ready\n")) {
      if (victims.has(podId)) throw new Orphaned();
      await sleep(50);
    }
    const stop = { containerId: life.id, timeout: 60n };
    await insist(podId, () => node.runtime.stopContainer(stop));
  }
  const status = await exited(life);
  if (!victims.has(podId)) life.seen = status;
}

/** However long it takes: the test has a limit of its own. */
async function exited(life: Life): Promise<ContainerStatus> {
  for (;;) {
    const status = await insistForAll(() => node.status(life));
    if (status.state === ContainerState.CONTAINER_EXITED) return status;
    await sleep(100);
  }
}

/** What the daemon has open, without numbers, and without its clients' connections: those are theirs. */
function openFiles(): string[] {
  const directory = `/proc/${node.crib.pid}/fd`;
  const links = readdirSync(directory).map((fd) => readlinkSync(join(directory, fd)));
  const connected = new Map<string, string>();
  for (const line of readFileSync("/proc/net/unix", "utf8").split("\n")) {
    const [, , , flags, , , inode = "", path = ""] = line.split(/\s+/);
    if (flags === "00000000") connected.set(`socket:[${inode}]`, path);
  }
  return links
    .filter((link) => connected.get(link) !== node.crib.socket)
    .map((link) => connected.get(link) ?? link)
    .map((name) => name.replace(/\[\d+\]/, "[N]"))
    .sort();
}

async function torture(): Promise<void> {
  process.stderr.write(`torture: CRIB_TORTURE_SEED=${SEED}\n`);
  const lives: Life[] = [];
  let next = 0;
  let busy = AT_ONCE;
  const lanes = Array.from({ length: AT_ONCE }, async () => {
    try {
      while (next < PODS) lives.push(...(await live(next++)));
    } finally {
      busy -= 1;
    }
  });
  const [kills] = await Promise.all([rage(() => busy === 0), Promise.all(lanes)]);
  const started = lives.filter((life) => life.started);
  const orphans = lives.filter((life) => life.end?.message.includes("monitor"));
  const sums = { containers: started.length, orphans: orphans.length, ...kills, ...counts };
  process.stderr.write(`torture: ${JSON.stringify(sums)}\n`);
  expect(kills.daemons).toBeGreaterThan(0);
  expect(kills.monitors).toBeGreaterThan(0);
  expect(orphans.length).toBeGreaterThan(0);
  expect(counts.rotations).toBeGreaterThan(0);
  expect(counts.execs).toBeGreaterThan(0);
  expect(started.length).toBeGreaterThan(PODS / 2);
  expect(monitors()).toEqual([]);
  expect(await node.cleaned()).toEqual([]);
  // What a daemon holds that went through it is what a fresh one holds.
  const held = openFiles();
  await node.restart();
  expect(held).toEqual(openFiles());
}

test(
  `${PODS} pods under random kills: no line, no exit lost, nothing left`,
  () => keepLogs(torture),
  LIMIT_MS,
);
