/** The pod monitor by itself, without a daemon, on the same bundles as Debian's conmon. */
import { existsSync, mkdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { open } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { Monitor } from "../../src/monitor/client.ts";
import { startMonitor } from "../../src/monitor/start.ts";
import type { ExecRequest, ExecResult } from "../../src/monitor/types.ts";
import { type BareRunc, conmonUp } from "./bare.ts";
import { type Figure, type Samples, timed } from "./figures.ts";
import { pssKib } from "./memory.ts";

const BINARY = resolve(import.meta.dir, "../../dist/native/crib-monitor");
const LINE_BYTES = 100;
const LOG_BYTES = 256_000_000;
const LOG_ROUNDS = 5;
const ROUND_TRIPS = 50;
const ROUND_TRIP_ROUNDS = 5;
const EXECS = 1_000;
const EXECS_AT_ONCE = 4;
const IDLE_MS = 10_000;
/** After this long a monitor has given back what it does not need. */
const REST_MS = 2_500;
const PODS = 5;

/** A monitor and the containers that it watches. */
class BareMonitor {
  readonly #ids: string[] = [];

  private constructor(
    readonly runc: BareRunc,
    readonly monitor: Monitor,
  ) {}

  static async start(runc: BareRunc): Promise<BareMonitor> {
    const podId = `monitor-${crypto.randomUUID().slice(0, 8)}`;
    const directory = join(runc.directory, podId);
    const monitor = await startMonitor({
      ...{ podId, directory, binary: BINARY, deadlineMs: 20_000 },
      ...{ namespaces: {}, sysctls: {} },
    });
    return new BareMonitor(runc, monitor);
  }

  /** The command line of runc that makes a container, or runs something in one. */
  #runc(...argv: string[]): string[] {
    return [Bun.which("runc") ?? "", ...this.runc.globalArguments, ...argv];
  }

  async up(id: string, logPath = join(this.runc.bundle(id), "log")): Promise<void> {
    const bundle = this.runc.bundle(id);
    const pidFile = join(bundle, "pid");
    const { pid, startError } = await this.monitor.create({
      ...{ id, cwd: bundle, logPath, pidFile, logBytesPerSecond: 0 },
      argv: this.#runc("create", "--bundle", bundle, "--pid-file", pidFile, id),
      env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
      ...{ stdin: false, stdinOnce: false, oomFile: "", deadlineMs: 20_000 },
    });
    if (pid === 0) throw new Error(`crib-monitor: create ${id}: ${startError}`);
    this.#ids.push(id);
    await this.runc.runc("start", id);
  }

  /** By turns with the output in frames, with streams, and with a terminal. */
  async exec(id: string, number: number): Promise<void> {
    const cwd = this.runc.bundle(id);
    const pidFile = join(cwd, `exec-${number}`);
    const socket = `exec-${number}.sock`;
    const tty = number % 3 === 2 ? ["--tty", "--console-socket", socket] : [];
    const argv = this.#runc("exec", "--detach", "--pid-file", pidFile, ...tty, id, "/bin/true");
    const env = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
    const request = { id, argv, env, cwd, pidFile, timeoutMs: 20_000, drainMs: 1_000 };
    const { exitCode } = await (number % 3 === 0
      ? this.monitor.exec(request, { stdout: () => undefined, stderr: () => undefined })
      : this.#live(request, tty.length > 0, socket));
    if (exitCode !== 0) throw new Error(`crib-monitor: /bin/true: exit code ${exitCode}`);
  }

  async #live(request: ExecRequest, tty: boolean, socket: string): Promise<ExecResult> {
    const wants = { stdin: true, stdout: true, stderr: !tty, tty };
    const live = await this.monitor.execLive(request, wants, socket);
    live.io?.resume();
    live.stderr?.resume();
    const result = await live.ended;
    live.close();
    return result;
  }

  async down(): Promise<void> {
    for (const id of this.#ids) await this.runc.delete(id);
    await this.monitor.shutdown();
  }
}

/** Nanoseconds on a processor. */
const cpuNs = (pid: number) => Number(readFileSync(`/proc/${pid}/schedstat`, "utf8").split(" ")[0]);

function switches(pid: number): number {
  const counts = readFileSync(`/proc/${pid}/status`, "utf8").matchAll(/_switches:\s+(\d+)/g);
  return [...counts].reduce((sum, [, count]) => sum + Number(count), 0);
}

/** Waits until the log ends with the line "end". */
async function complete(log: string): Promise<void> {
  const end = performance.now() + 120_000;
  const tail = Buffer.alloc(5);
  for (;;) {
    if (existsSync(log)) {
      const file = await open(log);
      await file.read(tail, 0, tail.length, Math.max(0, statSync(log).size - tail.length));
      await file.close();
      if (tail.toString() === " end\n") return;
    }
    if (performance.now() > end) throw new Error(`${log}: not complete`);
    await Bun.sleep(2);
  }
}

/** How many records of the log are tagged as parts of a line. */
async function parts(log: string): Promise<number> {
  const child = Bun.spawn(["grep", "-c", "^[^ ]* stdout P ", log], { stdout: "pipe" });
  return Number(await new Response(child.stdout).text());
}

/** Logs `LOG_BYTES` of short lines, in turns. The logs are in memory: the disk is nobody's merit. */
async function measureLogs(samples: Samples, runc: BareRunc, own: boolean): Promise<void> {
  const logs = `/dev/shm/crib-bench-${process.pid}`;
  mkdirSync(logs);
  try {
    for (let round = 0; round < LOG_ROUNDS * 2; round++) {
      const whose = round % 2 === 0 ? "conmon" : "crib";
      if (whose === "crib" && !own) continue;
      const id = await runc.prepare("cat /lines; echo end");
      const log = join(logs, id);
      const monitor = whose === "crib" ? await BareMonitor.start(runc) : undefined;
      let pid = monitor?.monitor.pid ?? 0;
      const ms = await timed(async () => {
        if (monitor === undefined) pid = await conmonUp(runc, id, log);
        else await monitor.up(id, log);
        await complete(log);
      });
      samples.add("log", whose, ms);
      samples.add("log CPU", whose, cpuNs(pid) / 1e6 / (LOG_BYTES / 1e9));
      samples.add("log parts", whose, await parts(log));
      rmSync(log);
      if (monitor === undefined) await runc.delete(id);
      else await monitor.down();
    }
    if (own) await measureRoundTrips(samples, runc, join(logs, "flood"));
  } finally {
    rmSync(logs, { recursive: true, force: true });
  }
}

/** The worst round trip of all rounds, while a container writes as fast as it can. */
async function measureRoundTrips(samples: Samples, runc: BareRunc, log: string): Promise<void> {
  let worst = 0;
  for (let round = 0; round < ROUND_TRIP_ROUNDS; round++) {
    const monitor = await BareMonitor.start(runc);
    await monitor.up(await runc.prepare("while :; do cat /lines; done"), log);
    for (let trip = 0; trip < ROUND_TRIPS; trip++) {
      await Bun.sleep(10);
      worst = Math.max(worst, await timed(() => monitor.monitor.list()));
    }
    await monitor.down();
    rmSync(log);
  }
  samples.add("round trip", "crib", worst);
}

/** PSS of `PODS` monitors with `containers` each, and of the conmons of as many containers. */
async function measureMemory(
  samples: Samples,
  runc: BareRunc,
  containers: number,
  own: boolean,
): Promise<void> {
  const monitors: BareMonitor[] = [];
  const conmons: Array<{ ids: string[]; pids: number[] }> = [];
  for (let pod = 0; pod < PODS; pod++) {
    const of: { ids: string[]; pids: number[] } = { ids: [], pids: [] };
    if (own) monitors.push(await BareMonitor.start(runc));
    for (let count = 0; count < containers; count++) {
      const id = await runc.prepare();
      of.pids.push(await conmonUp(runc, id));
      of.ids.push(id);
      await monitors.at(pod)?.up(await runc.prepare());
    }
    conmons.push(of);
  }
  await Bun.sleep(REST_MS);
  const what = `pod of ${containers}`;
  for (const { monitor } of monitors) samples.add(what, "crib", pssKib(monitor.pid));
  for (const { pids } of conmons) {
    samples.add(
      what,
      "conmon",
      pids.reduce((sum, pid) => sum + pssKib(pid), 0),
    );
  }
  for (const monitor of monitors) await monitor.down();
  for (const id of conmons.flatMap(({ ids }) => ids)) await runc.delete(id);
}

/** One idle pod: its wake-ups, then what a thousand execs leave in memory. */
async function measureIdle(samples: Samples, runc: BareRunc): Promise<void> {
  const monitor = await BareMonitor.start(runc);
  const id = await runc.prepare();
  await monitor.up(id);
  const { pid } = monitor.monitor;
  const exec = async (lane: number) => {
    for (let number = lane; number < EXECS; number += EXECS_AT_ONCE) await monitor.exec(id, number);
  };
  const lanes = Array.from({ length: EXECS_AT_ONCE }, (_, lane) => lane);
  // As many at once as later, and of each kind: each needs a slot, once.
  await Promise.all(lanes.map((lane) => monitor.exec(id, lane)));
  await Bun.sleep(REST_MS);
  const before = pssKib(pid);
  const asleep = switches(pid);
  await Bun.sleep(IDLE_MS);
  samples.add("wake-ups", "crib", switches(pid) - asleep);
  await Promise.all(lanes.map(exec));
  await Bun.sleep(REST_MS);
  samples.add("after execs", "crib", pssKib(pid) - before);
  await monitor.down();
}

/** Adds the samples of which `monitorFigures` makes figures; `own`: Crib's too, not only conmon's. */
export async function measureMonitor(
  samples: Samples,
  runc: BareRunc,
  { own }: { own: boolean },
): Promise<void> {
  const line = `${"x".repeat(LINE_BYTES - 1)}\n`;
  const lines = join(runc.rootfs, "lines");
  await Bun.write(lines, line.repeat(LOG_BYTES / LINE_BYTES));
  await measureLogs(samples, runc, own);
  rmSync(lines);
  for (const containers of [1, 3]) await measureMemory(samples, runc, containers, own);
  if (own) await measureIdle(samples, runc);
}

export function monitorFigures(samples: Samples): Figure[] {
  const figure = (what: string, name: string, unit: Figure["unit"], limit: Figure["limit"]) => {
    const { crib, ...peers } = samples.medians(what);
    return { name, unit, crib, peers, limit };
  };
  const absolute = (value: number) => ({ value, text: "absolute" });
  const conmon = (what: string) => ({
    value: samples.medians(what).conmon ?? Number.NaN,
    text: "conmon's",
  });
  const size = `${LOG_BYTES / 1e6} MB of ${LINE_BYTES}-byte lines`;
  return [
    figure("log", `logging ${size}`, "ms", conmon("log")),
    figure("log CPU", "logging, CPU per GB", "ms", conmon("log CPU")),
    figure("log parts", "cut lines that no limit forces", "count", absolute(0)),
    figure(
      "round trip",
      `worst of ${ROUND_TRIP_ROUNDS} x ${ROUND_TRIPS} round trips in a log flood`,
      "ms",
      absolute(5),
    ),
    figure("pod of 1", "monitor, 1 container, PSS", "KiB", absolute(100)),
    figure("pod of 3", "monitor, 3 containers, PSS", "KiB", absolute(150)),
    figure("after execs", `PSS growth by ${EXECS} execs`, "KiB", absolute(0)),
    figure("wake-ups", `wake-ups of an idle monitor in ${IDLE_MS / 1000} s`, "count", absolute(0)),
  ];
}
