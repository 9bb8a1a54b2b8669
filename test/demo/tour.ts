/**
 * The demo itself, inside its private namespaces (demo.ts makes them): one pod from an empty node to
 * an empty node. Each step of it talks to Crib over CRI, as the kubelet does.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { type RunningCrib, startCrib } from "../fixtures/crib.ts";
import { findLeftovers } from "../fixtures/leftovers.ts";
import { type Registry, startRegistry } from "../fixtures/registry.ts";
import { copyToRegistry, readPage, writeImage, writeNetwork } from "./node.ts";
import { Steps } from "./steps.ts";

const [directory = ""] = process.argv.slice(2);
const node = join(directory, "node");
const cgroupParent = `/${basename(directory)}`;
const logFile = join(import.meta.dir, "../.cache/demo/crib.log");
const HOST_PORT = 8085;
/** Where isolate.sh puts the node: a host port answers there. */
const PAGE = `http://192.0.2.2:${HOST_PORT}/`;

/** Serves a page, counts, and says goodbye when it is asked to stop. */
const SCRIPT = `echo "hello from $(hostname)"
httpd -p 80 -h /www
trap 'echo "bye at tick $i"; exit 7' TERM
i=0
while :; do i=$((i+1)); echo "tick $i"; sleep 0.1; done`;

const COMMANDS = "id; hostname; ps -o pid,comm";

const started = performance.now();
const steps = new Steps();
let registry: Registry;
let crib: RunningCrib;
/** The log of each daemon of this run. */
const logs: Array<() => string> = [];
let image = "";
let podSandboxId = "";
let containerId = "";

const podConfig = {
  metadata: { name: "web", namespace: "default", uid: crypto.randomUUID(), attempt: 0 },
  hostname: "web",
  logDirectory: join(directory, "logs"),
  portMappings: [{ containerPort: 80, hostPort: HOST_PORT }],
  linux: { cgroupParent, securityContext: { namespaceOptions: { pid: 1 } } },
};
const containerLog = join(directory, "logs/web/0.log");

async function startDaemon(): Promise<void> {
  const set = { "runtime.cgroup_driver": "cgroupfs" };
  const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
  crib = await startCrib({ directory: node, set, env: { PATH } });
  logs.push(crib.log);
}

async function fillRegistry(): Promise<string> {
  registry = await startRegistry();
  image = await copyToRegistry(writeImage(join(directory, "image")), registry.host);
  return "docker-registry has busybox:demo from skopeo";
}

async function serve(): Promise<string> {
  writeNetwork(node);
  await startDaemon();
  const { runtimeName, runtimeVersion, runtimeApiVersion } = await crib.runtime.version({});
  return `${runtimeName} ${runtimeVersion} speaks CRI ${runtimeApiVersion} on a private socket`;
}

async function pull(): Promise<string> {
  const { imageRef } = await crib.image.pullImage({ image: { image } });
  const { image: pulled } = await crib.image.imageStatus({ image: { image: imageRef } });
  return `${imageRef.slice(0, 19)}…, ${(Number(pulled?.size) / 1e6).toFixed(1)} MB on disk`;
}

async function runPod(): Promise<string> {
  ({ podSandboxId } = await crib.runtime.runPodSandbox({ config: podConfig }));
  const { status } = await crib.runtime.podSandboxStatus({ podSandboxId });
  return `${status?.network?.ip} by bridge and host-local`;
}

async function runContainer(): Promise<string> {
  const config = {
    metadata: { name: "web", attempt: 0 },
    image: { image },
    command: ["sh", "-c", SCRIPT],
    logPath: "web/0.log",
    linux: { securityContext: { namespaceOptions: { pid: 1 } } },
  };
  ({ containerId } = await crib.runtime.createContainer({
    podSandboxId,
    config,
    sandboxConfig: podConfig,
  }));
  await crib.runtime.startContainer({ containerId });
  const { pid, handler } = await containerInfo();
  return `process ${pid}, made by ${handler}`;
}

async function containerInfo(): Promise<{ pid: number; handler: string }> {
  const { status, info } = await crib.runtime.containerStatus({ containerId, verbose: true });
  if (status?.state !== 1) throw new Error(`the container does not run: ${status?.reason}`);
  const { status: pod } = await crib.runtime.podSandboxStatus({ podSandboxId });
  return { pid: Number(JSON.parse(info.info ?? "{}").pid), handler: pod?.runtimeHandler ?? "" };
}

async function page(): Promise<string> {
  return `"${await readPage(PAGE)}" through portmap`;
}

/** Lines of the container's log; waits for the `count`th. */
async function log(count: number): Promise<string[]> {
  const end = performance.now() + 10_000;
  for (;;) {
    const lines = readFileSync(containerLog, "utf8").trimEnd().split("\n");
    if (lines.length >= count) return lines;
    if (performance.now() > end) throw new Error(`${containerLog}: ${lines.length} lines`);
    await Bun.sleep(20);
  }
}

async function exec(cmd: string[]): Promise<string> {
  const { stdout, stderr, exitCode } = await crib.runtime.execSync({ containerId, cmd });
  if (exitCode !== 0) throw new Error(`${cmd.join(" ")}: ${exitCode}: ${Buffer.from(stderr)}`);
  return Buffer.from(stdout).toString().trimEnd();
}

async function stats(): Promise<string> {
  const { stats } = await crib.runtime.containerStats({ containerId });
  const memory = Number(stats?.memory?.workingSetBytes?.value ?? 0) / 1024;
  const cpu = Number(stats?.cpu?.usageCoreNanoSeconds?.value ?? 0) / 1e6;
  if (memory === 0 || cpu === 0) throw new Error("the container uses neither memory nor CPU?");
  return `${memory.toFixed(0)} KiB memory, ${cpu.toFixed(0)} ms CPU`;
}

/** SIGKILL, as the OOM killer would: nothing was prepared for it. */
async function killDaemon(): Promise<string> {
  const before = (await log(1)).length;
  await crib.kill();
  await Bun.sleep(500);
  const ticks = (await log(1)).length - before;
  if (ticks < 2) throw new Error("the container's log stood still");
  await readPage(PAGE);
  return `without it: ${ticks} lines of log, the page answers`;
}

async function restartDaemon(pid: number): Promise<string> {
  await startDaemon();
  const now = await containerInfo();
  if (now.pid !== pid) throw new Error(`the container was process ${pid} and is ${now.pid}`);
  return `still process ${pid}, daemon up in ${crib.startMs.toFixed(0)} ms`;
}

async function status(): Promise<string> {
  const child = Bun.spawn(["dist/crib", "status", "--socket", crib.socket], { stderr: "pipe" });
  const [text, problem] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  if ((await child.exited) !== 0) throw new Error(`crib status: ${problem}${text}`);
  return text;
}

async function stopAndRemove(): Promise<string> {
  await crib.runtime.stopContainer({ containerId, timeout: 5n });
  const { status } = await crib.runtime.containerStatus({ containerId });
  const last = (await log(1)).at(-1)?.replace(/^\S+ \S+ \S+ /, "");
  await crib.runtime.removeContainer({ containerId });
  await crib.runtime.stopPodSandbox({ podSandboxId });
  await crib.runtime.removePodSandbox({ podSandboxId });
  await crib.image.removeImage({ image: { image } });
  return `exit code ${status?.exitCode}, its last words: "${last}"`;
}

async function checkNothingLeft(): Promise<string> {
  const left = findLeftovers({ directory: node, cgroupParent, own: crib.pid });
  const { images } = await crib.image.listImages({});
  left.push(...images.map(({ id }) => `image ${id}`));
  if (left.length > 0) throw new Error(left.join("\n"));
  return "no mount, process, cgroup, address, file or row";
}

async function end(): Promise<string> {
  const code = await crib.stop();
  if (code !== 0) throw new Error(`crib serve ended with ${code}`);
  await registry.stop();
  return "exit code 0";
}

/** A step whose result is the text below its line. */
async function show(name: string, result: string, body: () => Promise<string>): Promise<void> {
  let text = "";
  await steps.run(name, async () => {
    text = await body();
    return result;
  });
  steps.quote(text);
}

async function tour(): Promise<void> {
  await steps.run("Fill a local registry", fillRegistry);
  await steps.run("Start crib serve", serve);
  await steps.run("Pull the image", pull);
  await steps.run("Run a pod sandbox", runPod);
  await steps.run("Create and start a container", runContainer);
  await steps.run("GET the pod's page by host port", page);
  await show("Read the container's log", "first lines", async () => {
    return (await log(3)).slice(0, 3).join("\n");
  });
  await show("Exec in it", COMMANDS, () => exec(["sh", "-c", COMMANDS]));
  await steps.run("Read its stats", stats);
  const { pid } = await containerInfo();
  await steps.run("Kill the daemon (SIGKILL)", killDaemon);
  await steps.run("Start the daemon again", () => restartDaemon(pid));
  await show("Ask crib status", "", status);
  await steps.run("Stop and remove everything", stopAndRemove);
  await steps.run("Look for what is left", checkNothingLeft);
  await steps.run("End crib serve (SIGTERM)", end);
}

function saveDaemonLog(): void {
  if (logs.length === 0) return;
  mkdirSync(dirname(logFile), { recursive: true });
  writeFileSync(logFile, logs.map((log) => log()).join(""));
  steps.say(`\nThe daemon's log: ${logFile}`);
}

// demo.ts holds the other end: it closes with Ctrl-C, or with demo.ts itself.
process.stdin.on("end", () => {
  steps.say("\nstopped: what ran ends with its namespaces");
  process.exit(130);
});
process.stdin.resume();

let exitCode = 0;
try {
  await tour();
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  steps.say(`\nDone in ${seconds} s: a pod ran, outlived its daemon, and left nothing behind.`);
} catch {
  exitCode = 1;
  saveDaemonLog();
}
process.exit(exitCode);
