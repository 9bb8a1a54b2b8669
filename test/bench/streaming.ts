/**
 * Measures Crib's budgets for exec and port-forward: kubectl's client with Crib's server, and the same
 * client with the server of CRI-O and containerd, in turns.
 *
 *   npm run bench:streaming -- [--rounds N] [--json FILE]
 *
 * Prints a table; exit status 1 when a budget is missed. Run it on a machine that does nothing else.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import * as v from "valibot";
import { detectCgroups, killAll, processes, removeCgroup } from "../../src/linux/cgroup.ts";
import { placeCgroup } from "../../src/linux/systemd.ts";
import { type RunningCrib, startCrib } from "../fixtures/crib.ts";
import { buildStreamingPrograms } from "../streaming/programs.ts";
import { type Figure, Samples, table, verdict } from "./figures.ts";
import { startBusybox } from "./registry.ts";
import { type Pod, Subject } from "./subject.ts";

const { values: options } = parseArgs({
  options: { rounds: { type: "string", default: "7" }, json: { type: "string" } },
});
const rounds = Number(options.rounds);
const GB = 1_000_000_000;
const BLOCK_BYTES = 64 * 1024;
const STALLED_BYTES = 3 * GB;
const CONNECTIONS = 200;
const AT_ONCE = 50;
const CONNECTION_BYTES = 200_000;
/** USER_HZ, the same on all architectures that Crib runs on. */
const TICKS_PER_SECOND = 100;
const SAMPLE_MS = 20;
const STALL_MS = 3_000;
/** Each takes half a minute. */
const STALL_ROUNDS = 3;

const Transport = ["spdy", "websocket"] as const;
type Transport = (typeof Transport)[number];

const programs = buildStreamingPrograms();
const directory = mkdtempSync(join(tmpdir(), "crib-bench-"));
const cgroupParent = `/crib-bench-${process.pid}`;
const host = detectCgroups();
const samples = new Samples();
const say = (text: string) => process.stderr.write(`bench: ${text}\n`);

/** One that streams. */
interface Server {
  name: string;
  /** The processes between a command's output and the client. */
  pids: number[];
  /** Its memory is measured. */
  daemonPid: number;
  exec(cmd: string[]): Promise<string>;
  forward(): Promise<string>;
}

const Report = v.object({
  bytes: v.number(),
  ms: v.number(),
  failed: v.optional(v.number(), 0),
  error: v.optional(v.string()),
});

/** Runs kubectl's client until its end. @throws Error when something is missing or failed. */
async function client(bytes: number, ...args: string[]): Promise<number> {
  const child = Bun.spawn([programs.client, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  const [text, exitCode] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  if (exitCode !== 0) throw new Error(`client ${args.join(" ")}: exit code ${exitCode}`);
  const report = v.parse(Report, JSON.parse(text));
  if (report.error !== undefined || report.failed > 0 || report.bytes !== bytes) {
    throw new Error(`client ${args.join(" ")}: ${text}`);
  }
  return report.ms;
}

/** CPU time of a process and its threads. */
function cpuMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return ((Number(fields[11]) + Number(fields[12])) * 1000) / TICKS_PER_SECOND;
}

function rssKib(pid: number): number {
  const [, kib] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
  return Number(kib);
}

const zeros = (bytes: number) => [
  ...["/bin/busybox", "dd", "if=/dev/zero", `bs=${BLOCK_BYTES}`],
  `count=${Math.floor(bytes / BLOCK_BYTES)}`,
];
const wholeBlocks = (bytes: number) => Math.floor(bytes / BLOCK_BYTES) * BLOCK_BYTES;

async function exec(server: Server, transport: Transport, bytes: number, ...args: string[]) {
  const url = await server.exec(zeros(bytes));
  // Kubernetes' own server knows no version 5.
  const offer = transport === "websocket" ? ["-protocols", "v4.channel.k8s.io"] : [];
  const target = ["-url", url, "-transport", transport, ...offer];
  return client(wholeBlocks(bytes), "command", ...target, "-stdout", "-discard", ...args);
}

async function measureExec(server: Server, transport: Transport, keep: boolean): Promise<void> {
  const cpu = () => server.pids.reduce((sum, pid) => sum + cpuMs(pid), 0);
  const before = cpu();
  const ms = await exec(server, transport, GB);
  if (!keep) return;
  samples.add(`exec ${transport}`, server.name, ms);
  samples.add(`CPU ${transport}`, server.name, cpu() - before);
}

/**
 * How much memory the daemon needs more while a client reads nothing for a while, and then while it reads
 * all of it as fast as it can.
 */
async function measureStall(server: Server, transport: Transport, keep: boolean): Promise<void> {
  const before = rssKib(server.daemonPid);
  let most = before;
  const timer = setInterval(() => {
    most = Math.max(most, rssKib(server.daemonPid));
  }, SAMPLE_MS);
  const stall = ["-stall-after", "1000000", "-stall", `${STALL_MS}ms`];
  const done = exec(server, transport, STALLED_BYTES, ...stall);
  await Promise.race([done, Bun.sleep(STALL_MS)]);
  const stalled = most - before;
  await done;
  clearInterval(timer);
  if (!keep) return;
  samples.add(`stall ${transport}`, server.name, stalled);
  samples.add(`flood ${transport}`, server.name, most - before);
}

async function measureForward(server: Server, transport: Transport, port: string): Promise<void> {
  const target = ["-url", await server.forward(), "-transport", transport, "-port", port];
  const load = ["-connections", String(CONNECTIONS), "-parallel", String(AT_ONCE)];
  const ms = await client(CONNECTIONS * CONNECTION_BYTES, "load", ...target, ...load);
  samples.add(`forward ${transport}`, server.name, ms);
}

/** Kubernetes' server, which is also what forwarded connections lead to. */
async function startPeer() {
  const child = Bun.spawn([programs.server], { stdio: ["pipe", "pipe", "inherit"] });
  const reader = child.stdout.getReader();
  const ask = async (line: string): Promise<string> => {
    child.stdin.write(`${line}\n`);
    await child.stdin.flush();
    const answer = new TextDecoder().decode((await reader.read()).value).trim();
    if (answer === "" || answer.startsWith("ERROR")) throw new Error(`${line}: ${answer}`);
    return answer;
  };
  const server: Server = {
    name: "Kubernetes",
    pids: [child.pid],
    daemonPid: child.pid,
    exec: (cmd) => ask(`exec ${cmd.join(" ")}`),
    forward: () => ask("forward"),
  };
  const stop = async () => {
    child.kill();
    await child.exited;
  };
  return { server, ask, stop };
}

async function cribServer(crib: RunningCrib, pod: Pod): Promise<Server> {
  const { containerId } = pod;
  const monitors = await processes(host, placeCgroup("cgroupfs", cgroupParent, pod.id).path);
  return {
    name: "crib",
    pids: [crib.pid, ...monitors],
    daemonPid: crib.pid,
    exec: async (cmd) => (await crib.runtime.exec({ containerId, cmd, stdout: true })).url,
    forward: async () => (await crib.runtime.portForward({ podSandboxId: pod.id })).url,
  };
}

async function measure(crib: Server): Promise<void> {
  const peer = await startPeer();
  try {
    const servers = [crib, peer.server];
    for (let round = -1; round < rounds; round += 1) {
      for (const transport of Transport) {
        for (const server of servers) await measureExec(server, transport, round >= 0);
      }
    }
    say("stalled readers");
    for (let round = -1; round < Math.min(rounds, STALL_ROUNDS); round += 1) {
      for (const transport of Transport) {
        for (const server of servers) await measureStall(server, transport, round >= 0);
      }
    }
    say("forwarded connections");
    const port = await peer.ask(`target ${CONNECTION_BYTES}`);
    for (let round = 0; round < rounds; round += 1) {
      for (const server of servers) await measureForward(server, "spdy", port);
      // Kubernetes' own server has no tunnel.
      await measureForward(crib, "websocket", port);
    }
  } finally {
    await peer.stop();
  }
}

function figures(): Figure[] {
  return Transport.flatMap((transport) => {
    const figure = (what: string, name: string, unit: Figure["unit"], limit?: Figure["limit"]) => {
      const { crib, ...peers } = samples.medians(`${what} ${transport}`);
      return { name: `${name}, ${transport}`, unit, crib, peers, limit };
    };
    const growth = { value: 20_000_000 / 1024, text: "20 MB" };
    const peer = samples.medians(`exec ${transport}`).Kubernetes ?? Number.NaN;
    const peerCpu = samples.medians(`CPU ${transport}`).Kubernetes ?? Number.NaN;
    return [
      figure("exec", "exec, 1 GB of output", "ms", {
        value: peer / 0.8,
        text: "0.8 of Kubernetes' MB/s",
      }),
      figure("CPU", "CPU of daemon and monitor per GB", "ms", {
        value: (peerCpu * 0.6) / 0.36,
        text: "0.6 s where Kubernetes' server needs 0.36",
      }),
      figure("stall", "memory more, 3 GB not read", "KiB", growth),
      figure("flood", "memory more, 3 GB then read", "KiB"),
      figure("forward", `${CONNECTIONS} connections of 200 KB`, "ms", {
        value: 1_500,
        text: "absolute",
      }),
    ];
  });
}

const registry = await startBusybox(directory);
let crib: RunningCrib | undefined;
let failed = false;
try {
  await Bun.write(
    join(directory, "registries.conf"),
    `[[registry]]\nlocation = "${registry.address}"\ninsecure = true\n`,
  );
  crib = await startCrib({
    directory: join(directory, "crib"),
    set: {
      "runtime.default_handler": "runc",
      "runtime.cgroup_driver": "cgroupfs",
      "runtime.cgroup_parent": cgroupParent,
      "image.registries_conf": join(directory, "registries.conf"),
    },
  });
  const subject = new Subject("crib", crib, registry.image, cgroupParent);
  await subject.pull();
  const pod = await subject.up();
  say(`${rounds} execs each, in turns`);
  await measure(await cribServer(crib, pod));
  await subject.down(pod);
  const results = figures();
  process.stdout.write(`${table(results)}\n`);
  if (options.json !== undefined) {
    await Bun.write(options.json, JSON.stringify({ figures: results, samples }, undefined, 2));
  }
  failed = results.some((figure) => verdict(figure) === false);
} finally {
  await crib?.stop();
  await registry.stop();
  await killAll(host, cgroupParent, 10_000);
  await removeCgroup(host, cgroupParent);
  rmSync(directory, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
