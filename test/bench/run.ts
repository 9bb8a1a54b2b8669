/**
 * Measures Crib's budgets, side by side with bare runc, Debian's conmon and containerd in one run.
 *
 *   npm run bench -- [--rounds N] [--json FILE] [--peers-only]
 *
 * Prints a table; exit status 1 when a budget is missed. Run it on a machine that does nothing else.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { detectCgroups, killAll, processes, removeCgroup } from "../../src/linux/cgroup.ts";
import { placeCgroup } from "../../src/linux/systemd.ts";
import { type RunningCrib, startCrib } from "../fixtures/crib.ts";
import { BareRunc, conmonUp } from "./bare.ts";
import { type RunningContainerd, startContainerd } from "./containerd.ts";
import { type Figure, Samples, table, timed, verdict } from "./figures.ts";
import { anonymousKib, pidsWith, pssKib } from "./memory.ts";
import { measureMonitor, monitorFigures } from "./monitor.ts";
import { type BenchRegistry, startBusybox } from "./registry.ts";
import { type Pod, Subject } from "./subject.ts";

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "30" },
    json: { type: "string" },
    "peers-only": { type: "boolean", default: false },
  },
});
const rounds = Number(options.rounds);
const WARM_UP = 5;
const WARM_UP_CALLS = 300;
const STARTS = 9;
/** Idle pods at a time, for memory. */
const PODS = 5;

const say = (text: string) => process.stderr.write(`bench: ${text}\n`);
const directory = mkdtempSync(join(tmpdir(), "crib-bench-"));
const cgroupParent = `/crib-bench-${process.pid}`;
const host = detectCgroups();

const samples = new Samples();

function cribOptions() {
  return {
    directory: join(directory, "crib"),
    set: {
      "runtime.default_handler": "runc",
      "runtime.cgroup_driver": "cgroupfs",
      "runtime.cgroup_parent": cgroupParent,
      "image.registries_conf": join(directory, "registries.conf"),
    },
  };
}

/**
 * Before each measurement: whoever comes right after another would find its caches warm, and cgroups
 * that the kernel moves processes between without waiting (on a quiet node each move waits some 10 ms).
 */
const REST_MS = 40;

async function fromRest(body: () => Promise<unknown>): Promise<number> {
  await Bun.sleep(REST_MS);
  return timed(body);
}

/** Takes turns, so that what else the machine does hits all alike. */
async function measureTimes(runc: BareRunc, subjects: Subject[]): Promise<void> {
  const bare = await runc.prepare();
  await runc.up(bare);
  const pods = new Map<Subject, Pod>();
  for (const subject of subjects) pods.set(subject, await subject.up());
  for (let round = -WARM_UP; round < rounds; round += 1) {
    const keep = (what: string, whose: string, value: number) => {
      if (round >= 0) samples.add(what, whose, value);
    };
    const id = await runc.prepare();
    keep("pod up", "runc", await fromRest(() => runc.up(id)));
    await runc.delete(id);
    for (const subject of subjects) {
      let pod: Pod | undefined;
      const ms = await fromRest(async () => {
        pod = await subject.up();
      });
      keep("pod up", subject.name, ms);
      if (pod !== undefined) await subject.down(pod);
    }
    keep("exec", "runc", await fromRest(() => runc.exec(bare)));
    for (const [subject, pod] of pods) {
      keep("exec", subject.name, await fromRest(() => subject.exec(pod)));
    }
  }
  await runc.delete(bare);
  for (const [subject, pod] of pods) await subject.down(pod);
}

/** PSS of what stays per idle pod: Crib's monitor, conmon, containerd's shim (its pause not counted). */
async function measureMonitors(runc: BareRunc, subjects: Subject[]): Promise<void> {
  const conmons: Array<{ id: string; pid: number }> = [];
  const pods: Array<{ subject: Subject; pod: Pod }> = [];
  for (let index = 0; index < PODS; index += 1) {
    const id = await runc.prepare();
    conmons.push({ id, pid: await conmonUp(runc, id) });
    for (const subject of subjects) pods.push({ subject, pod: await subject.up() });
  }
  await Bun.sleep(1_000);
  for (const { pid } of conmons) samples.add("monitor", "conmon", pssKib(pid));
  for (const { subject, pod } of pods) {
    const pids =
      subject.name === "crib"
        ? await processes(host, placeCgroup("cgroupfs", cgroupParent, pod.id).path)
        : pidsWith(`-id\0${pod.id}`);
    if (pids.length === 0) throw new Error(`${subject.name}: no monitor of pod ${pod.id} found`);
    const name = subject.name === "crib" ? "crib" : "containerd-shim";
    const total = pids.reduce((sum, pid) => sum + pssKib(pid), 0);
    samples.add("monitor", name, total);
  }
  for (const { subject, pod } of pods) await subject.down(pod);
  for (const { id } of conmons) await runc.delete(id);
}

async function measureStarts(registry: BenchRegistry): Promise<void> {
  for (let index = 0; index < STARTS; index += 1) {
    const directories = join(directory, `start-${index}`);
    if (!options["peers-only"]) {
      const crib = await startCrib({ ...cribOptions(), directory: `${directories}-crib` });
      await Bun.sleep(500);
      samples.add("start", "crib", crib.startMs);
      samples.add("anonymous", "crib", anonymousKib(crib.pid));
      await crib.stop();
    }
    const containerd = await startContainerd(`${directories}-containerd`, registry.image);
    await Bun.sleep(500);
    samples.add("start", "containerd", containerd.startMs);
    samples.add("anonymous", "containerd", anonymousKib(containerd.pid));
    await containerd.stop();
  }
}

function figures(): Figure[] {
  const figure = (what: string, name: string, unit: Figure["unit"], limit?: Figure["limit"]) => {
    const { crib, ...peers } = samples.medians(what);
    return { name, unit, crib, peers, limit: options["peers-only"] ? undefined : limit };
  };
  const bare = (what: string) => samples.medians(what).runc ?? Number.NaN;
  const all = [
    figure("pod up", "pod up, host network", "ms", {
      value: (bare("pod up") * 45) / 33,
      text: "45/33 of runc create + start",
    }),
    figure("exec", "ExecSync /bin/true", "ms", {
      value: bare("exec") * 1.5,
      text: "1.5 of runc exec",
    }),
    figure("monitor", "monitor per idle pod, PSS", "KiB", { value: 100, text: "absolute" }),
    figure("start", "daemon start to first Version", "ms", { value: 80, text: "absolute" }),
    figure("anonymous", "fresh daemon, anonymous memory", "KiB", {
      value: 15_000_000 / 1024,
      text: "15 MB",
    }),
  ];
  return options["peers-only"] ? all : [...all, ...monitorFigures(samples)];
}

async function measure(registry: BenchRegistry): Promise<void> {
  const [host, port] = registry.address.split(":");
  await Bun.write(
    join(directory, "registries.conf"),
    `[[registry]]\nlocation = "${host}:${port}"\ninsecure = true\n`,
  );
  const runc = new BareRunc(join(directory, "bundles"), registry.rootfs, cgroupParent);
  let crib: RunningCrib | undefined;
  let containerd: RunningContainerd | undefined;
  try {
    containerd = await startContainerd(join(directory, "containerd"), registry.image);
    const subjects = [new Subject("containerd", containerd, registry.image, cgroupParent)];
    if (!options["peers-only"]) {
      crib = await startCrib(cribOptions());
      subjects.unshift(new Subject("crib", crib, registry.image, cgroupParent));
    }
    for (const subject of subjects) {
      await subject.pull();
      // A kubelet asks every second: client and daemon are measured as they are after a while.
      for (let call = 0; call < WARM_UP_CALLS; call += 1) await subject.clients.runtime.version({});
    }
    say(`${rounds} pods and execs each, in turns`);
    await measureTimes(runc, subjects);
    say(`memory of ${PODS} idle pods each`);
    await measureMonitors(runc, subjects);
    say("the monitor alone, beside conmon");
    await measureMonitor(samples, runc, { own: !options["peers-only"] });
  } finally {
    await crib?.stop();
    await containerd?.stop();
  }
  say(`${STARTS} starts of each daemon`);
  await measureStarts(registry);
}

const registry = await startBusybox(directory);
let failed = false;
try {
  await measure(registry);
  const results = figures();
  process.stdout.write(`${table(results)}\n`);
  if (options.json !== undefined) {
    await Bun.write(options.json, JSON.stringify({ figures: results, samples }, undefined, 2));
  }
  failed = results.some((figure) => verdict(figure) === false);
} finally {
  await registry.stop();
  await killAll(host, cgroupParent, 10_000);
  await removeCgroup(host, cgroupParent);
  rmSync(directory, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
