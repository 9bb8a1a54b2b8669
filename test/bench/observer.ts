/**
 * Watches a daemon from a process of its own, so that what its caller does counts nothing:
 *
 *   bun test/bench/observer.ts memory PID
 *   bun test/bench/observer.ts version SOCKET
 *
 * Until its standard input ends it reads the memory of the daemon and of its children, or calls Version
 * every 10 ms, also while earlier calls wait; then it prints its part of an `Observation` as JSON. Two
 * processes: whoever reads the memory of a busy process has to wait for it.
 */
import { readdirSync, readFileSync } from "node:fs";
import { connectCri } from "../../src/cli/cri-client.ts";
import { percentile } from "./figures.ts";
import type { MemoryObservation, VersionObservation } from "./observation.ts";

const EVERY_MS = 10;
/** Reading the memory of children is the longest thing done here. */
const CHILDREN_EVERY = 5;

/** RssAnon of /proc/PID/status in KiB; 0 of a process that is gone. */
function anonymousKib(pid: number): number {
  try {
    const [, kib] =
      /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
    return Number(kib ?? 0);
  } catch {
    return 0;
  }
}

function childrenOf(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).flatMap((task) =>
      readFileSync(`/proc/${pid}/task/${task}/children`, "utf8")
        .trim()
        .split(" ")
        .filter(Boolean)
        .map(Number),
    );
  } catch {
    return [];
  }
}

const commandLine = (pid: number) => readFileSync(`/proc/${pid}/cmdline`, "utf8");

/** A child that is no program of its own yet (vfork) has the daemon's memory, which counts once. */
function childKib(pid: number, daemon: number): number {
  try {
    return commandLine(pid) === commandLine(daemon) ? 0 : anonymousKib(pid);
  } catch {
    return 0;
  }
}

const over = { now: false };
process.stdin.on("end", () => {
  over.now = true;
});

/** Does something every 10 ms, as long as it is to be observed; how late it came to it each time. */
async function everyTurn(action: (turn: number) => void): Promise<number[]> {
  const late: number[] = [];
  process.stdin.resume();
  process.stdout.write("ready\n");
  for (let turn = 0, due = performance.now(); !over.now; turn += 1, due += EVERY_MS) {
    await Bun.sleep(Math.max(0, due - performance.now()));
    late.push(performance.now() - due);
    action(turn);
  }
  return late;
}

async function observeMemory(pid: number): Promise<MemoryObservation> {
  let [daemonKib, childrenKib] = [0, 0];
  await everyTurn((turn) => {
    daemonKib = Math.max(daemonKib, anonymousKib(pid));
    if (turn % CHILDREN_EVERY !== 0) return;
    const children = childrenOf(pid).map((child) => childKib(child, pid));
    childrenKib = Math.max(
      childrenKib,
      children.reduce((sum, kib) => sum + kib, 0),
    );
  });
  return { daemonKib, childrenKib };
}

async function observeVersion(socket: string): Promise<VersionObservation> {
  const { runtime, close } = connectCri(socket, { timeoutMs: 60_000 });
  for (let call = 0; call < 50; call += 1) await runtime.version({});
  const times: number[] = [];
  const pending = new Set<Promise<unknown>>();
  let failed = 0;
  const late = await everyTurn(() => {
    const start = performance.now();
    const call = runtime
      .version({})
      .catch(() => {
        failed += 1;
      })
      .then(() => times.push(performance.now() - start));
    pending.add(call);
    void call.then(() => pending.delete(call));
  });
  await Promise.all(pending);
  close();
  return {
    lateMs: { p99: percentile(late, 99) },
    versionMs: {
      calls: times.length,
      failed,
      p99: percentile(times, 99),
      longest: Math.max(...times),
    },
  };
}

const [what, of = ""] = process.argv.slice(2);
const seen = what === "memory" ? await observeMemory(Number(of)) : await observeVersion(of);
process.stdout.write(`${JSON.stringify(seen)}\n`);
process.exit(0);
