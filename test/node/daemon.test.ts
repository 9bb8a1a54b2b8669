/** Crib as a systemd unit: what its end, by systemctl or by a signal, does to pods. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { ContainerState } from "../../src/gen/runtime/v1/container_pb.ts";
import { exec, exited, kubeletParent, type Pod, run, runPod, statusOf } from "./cri.ts";
import { busybox, Crib, cleaned, sh, unitState, until } from "./node.ts";

let crib: Crib;
let pod: Pod;
let container: string;

/** Prints a number every half second. */
const counter = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.5; done";

beforeAll(async () => {
  crib = await Crib.start();
  await crib.image.pullImage({ image: { image: busybox } });
  pod = await runPod(crib, { cgroupParent: kubeletParent("systemd", "daemon") });
  container = await run(crib, pod, { command: ["sh", "-c", counter] });
});

afterAll(async () => {
  await crib.removeAll();
});

/** The container is the one that it was, its log has every number once, and exec works. */
async function expectUnchanged(startedAt: bigint): Promise<void> {
  const status = await statusOf(crib, container);
  expect(status.state).toBe(ContainerState.CONTAINER_RUNNING);
  expect(status.startedAt).toBe(startedAt);
  const count = () => readFileSync(status.logPath, "utf8").trim().split("\n").length;
  const before = count();
  await until("more lines in the log", () => count() > before);
  const numbers = readFileSync(status.logPath, "utf8").trim().split("\n");
  expect(numbers.map((it) => it.split(" ")[3])).toEqual(numbers.map((_, i) => String(i + 1)));
  expect(await exec(crib, container, "echo here")).toBe("here");
}

test("crib check finds nothing amiss on this node", () => {
  const { exitCode, stdout, stderr } = Bun.spawnSync(["crib", "check"]);
  expect(`${exitCode}\n${exitCode === 0 ? "" : stdout.toString() + stderr.toString()}`).toBe("0\n");
});

test("systemctl reload leaves the daemon and pods alone", async () => {
  const { startedAt } = await statusOf(crib, container);
  const pid = crib.pid();
  sh("systemctl", "reload", "crib");
  await expectUnchanged(startedAt);
  expect(crib.pid()).toBe(pid);
});

test("systemctl reload applies the log level", async () => {
  const dropIn = "/etc/crib/crib.d/zz-reload.toml";
  const journal = () => sh("journalctl", "-b", "-u", "crib", "-o", "cat").split("\n");
  const reloads = () =>
    journal().flatMap((it, at) => (it.includes('"applied":["log.level"]') ? [at] : []));
  const reload = async () => {
    const count = reloads().length;
    sh("systemctl", "reload", "crib");
    await until("the reload", () => reloads().length > count);
    await crib.runtime.version({});
  };
  writeFileSync(dropIn, '[log]\nlevel = "info"\n');
  await reload();
  rmSync(dropIn);
  await reload();
  const [quiet, loud] = reloads().slice(-2);
  // A line for each answer is of level debug.
  const isAnswer = (line: string) => line.includes('"rpc":"Version"');
  expect(journal().slice(quiet, loud).filter(isAnswer)).toEqual([]);
  await until("a line of the answer", () => journal().slice(loud).some(isAnswer));
});

test("the unit's limits are those that containers inherit, and the daemon is not the OOM killer's first", () => {
  const limits = ["LimitNOFILE", "LimitNPROC", "LimitCORE", "TasksMax", "MemoryMax"];
  const names = [...limits, "OOMScoreAdjust"];
  const shown = sh("systemctl", "show", "crib", ...names.map((it) => `--property=${it}`));
  expect(shown.trim().split("\n").sort()).toEqual([
    "LimitCORE=infinity",
    "LimitNOFILE=1048576",
    "LimitNPROC=infinity",
    `MemoryMax=${2 * 1024 ** 3}`,
    "OOMScoreAdjust=-999",
    "TasksMax=infinity",
  ]);
  const inherited = readFileSync(`/proc/${crib.pid()}/limits`, "utf8");
  expect(inherited).toMatch(/^Max open files +1048576 +1048576/m);
  expect(inherited).toMatch(/^Max processes +unlimited +unlimited/m);
  expect(readFileSync(`/proc/${crib.pid()}/oom_score_adj`, "utf8").trim()).toBe("-999");
});

test("systemctl restart leaves pods alone", async () => {
  const { startedAt } = await statusOf(crib, container);
  await crib.restart();
  await expectUnchanged(startedAt);
});

test("systemctl stop leaves pods alone, and start finds them again", async () => {
  const { startedAt } = await statusOf(crib, container);
  await crib.stop();
  expect(unitState(`crio-${container}.scope`)).toBe("active");
  sh("systemctl", "start", "crib");
  await crib.answers();
  await expectUnchanged(startedAt);
});

test("kill -9 of the daemon leaves pods alone, three times", async () => {
  const { startedAt } = await statusOf(crib, container);
  for (let round = 0; round < 3; round += 1) {
    await crib.kill();
    await expectUnchanged(startedAt);
  }
});

test("a daemon that hangs is started again by systemd's watchdog, and pods live on", async () => {
  const dropIn = "/etc/systemd/system/crib.service.d/watchdog.conf";
  mkdirSync(dirname(dropIn), { recursive: true });
  writeFileSync(dropIn, "[Service]\nWatchdogSec=20\n");
  sh("systemctl", "daemon-reload");
  await crib.restart();
  const { startedAt } = await statusOf(crib, container);
  const hung = crib.pid();
  process.kill(hung, "SIGSTOP");
  await until("a new daemon", () => ![0, hung].includes(crib.pid()), 240_000);
  await crib.answers();
  expect(sh("journalctl", "-b", "-u", "crib", "-o", "cat")).toContain("Watchdog timeout");
  await expectUnchanged(startedAt);
  rmSync(dirname(dropIn), { recursive: true });
  sh("systemctl", "daemon-reload");
  await crib.restart();
  await expectUnchanged(startedAt);
});

/** Stops the daemon, waits until the container has ended, and starts the daemon again. */
async function endsWithoutDaemon(id: string): Promise<void> {
  await crib.stop();
  await until("the scope's end", () => unitState(`crio-${id}.scope`) !== "active");
  sh("systemctl", "start", "crib");
  await crib.answers();
}

test("a container that ends while no daemon runs has its exit code afterwards", async () => {
  const id = await run(crib, pod, { command: ["sh", "-c", "sleep 8; exit 5"] });
  await endsWithoutDaemon(id);
  const status = await exited(crib, id);
  expect([status.exitCode, status.reason]).toEqual([5, "Error"]);
});

test("a container that runs out of memory while no daemon runs is OOMKilled afterwards", async () => {
  const limit = 20n * 1024n * 1024n;
  const id = await run(crib, pod, {
    command: ["sh", "-c", "sleep 8; dd if=/dev/zero of=/dev/null bs=100M count=1"],
    resources: { memoryLimitInBytes: limit, memorySwapLimitInBytes: limit },
  });
  await endsWithoutDaemon(id);
  const status = await exited(crib, id);
  expect([status.exitCode, status.reason]).toEqual([137, "OOMKilled"]);
});

test("a pod whose monitor is killed is not ready, and can be removed", async () => {
  const victim = await runPod(crib, { cgroupParent: kubeletParent("systemd", "victim") });
  await run(crib, victim);
  const { info } = await crib.runtime.podSandboxStatus({ podSandboxId: victim.id, verbose: true });
  process.kill(Number(JSON.parse(info.info ?? "{}").pid), "SIGKILL");
  await until("the pod's end", async () => {
    const { status } = await crib.runtime.podSandboxStatus({ podSandboxId: victim.id });
    return status?.state === 1;
  });
  await crib.runtime.stopPodSandbox({ podSandboxId: victim.id });
  await crib.runtime.removePodSandbox({ podSandboxId: victim.id });
});

test("nothing is left when the pods are removed", async () => {
  await crib.removeAll();
  expect(await cleaned()).toEqual([]);
});
