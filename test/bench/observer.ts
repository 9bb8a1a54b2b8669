/**
 * Watches a daemon from a process of its own, so that what its caller does counts nothing:
 *
 *   bun test/bench/observer.ts PID SOCKET
 *
 * Until its standard input ends it calls Version every 10 ms, also while earlier calls wait, and reads
 * the memory of the daemon and of its children; then it prints an `Observation` as JSON.
 */
import { readdirSync, readFileSync } from "node:fs";
import { connectCri } from "../../src/cli/cri-client.ts";
import { preferSelf } from "../../src/linux/priority.ts";
import { percentile } from "./figures.ts";
import type { Observation } from "./observation.ts";

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

async function observe(pid: number, socket: string): Promise<Observation> {
  const { runtime, close } = connectCri(socket, { timeoutMs: 60_000 });
  for (let call = 0; call < 50; call += 1) await runtime.version({});
  const times: number[] = [];
  const late: number[] = [];
  const pending = new Set<Promise<unknown>>();
  let [daemonKib, childrenKib, failed, done] = [0, 0, 0, false];
  process.stdin.on("end", () => {
    done = true;
  });
  process.stdin.resume();
  process.stdout.write("ready\n");
  for (let turn = 0, due = performance.now(); !done; turn += 1, due += EVERY_MS) {
    await Bun.sleep(Math.max(0, due - performance.now()));
    const start = performance.now();
    late.push(start - due);
    const call = runtime.version({}).then(
      () => times.push(performance.now() - start),
      () => {
        failed += 1;
        times.push(performance.now() - start);
      },
    );
    pending.add(call);
    void call.then(() => pending.delete(call));
    daemonKib = Math.max(daemonKib, anonymousKib(pid));
    if (turn % CHILDREN_EVERY !== 0) continue;
    const children = childrenOf(pid).map((child) => childKib(child, pid));
    childrenKib = Math.max(
      childrenKib,
      children.reduce((sum, kib) => sum + kib, 0),
    );
  }
  await Promise.all(pending);
  close();
  return {
    daemonKib,
    childrenKib,
    lateMs: { p99: percentile(late, 99) },
    versionMs: {
      calls: times.length,
      failed,
      p99: percentile(times, 99),
      longest: Math.max(...times),
    },
  };
}

// The daemon's answers are measured, not how long this process waits for a processor to take them.
preferSelf();
const [pid, socket = ""] = process.argv.slice(2);
process.stdout.write(`${JSON.stringify(await observe(Number(pid), socket))}\n`);
process.exit(0);
