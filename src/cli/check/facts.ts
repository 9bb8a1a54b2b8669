/** Reads this machine for `crib check`; nothing is judged here, and nothing is changed. */
import { existsSync, readdirSync, readFileSync, realpathSync, statfsSync, statSync } from "node:fs";
import { release } from "node:os";
import { dirname } from "node:path";
import type { Config } from "../../config/config.ts";
import { messageOf } from "../../error.ts";
import { hasAppArmorParser } from "../../linux/apparmor.ts";
import { detectCgroups } from "../../linux/cgroup.ts";
import { readHost } from "../../linux/host.ts";
import { type KernelFacts, type ModuleState, SYSCTLS } from "./kernel.ts";
import type { Place, PlaceFacts, SocketUse } from "./places.ts";

const ANSWER_DEADLINE_MS = 10_000;

export function readKernel(): KernelFacts {
  const kernel = release();
  const { cgroups, host } = readCgroups();
  const state = (name: string) => moduleState(name, kernel);
  return {
    release: kernel,
    cgroups,
    modules: {
      overlay: hasFileSystem("overlay") ? "there" : state("overlay"),
      veth: state("veth"),
      bridge: state("bridge"),
      br_netfilter: state("br_netfilter"),
    },
    seccompActions: text("/proc/sys/kernel/seccomp/actions_avail").trim(),
    namespaces: entries("/proc/self/ns"),
    sysctls: Object.fromEntries(SYSCTLS.map((name) => [name, sysctl(name)])),
    capabilities: host.capabilities,
    swapAccounting: host.swapAccounting,
    swapOn: text("/proc/swaps").trim().split("\n").length > 1,
    apparmor: host.apparmor,
    hasAppArmorParser: hasAppArmorParser(),
    selinux: selinux(),
    rootIsShared: mountOf("/")?.shared ?? false,
  };
}

function readCgroups(): { cgroups: KernelFacts["cgroups"]; host: ReturnType<typeof readHost> } {
  try {
    const { version, controllers } = detectCgroups();
    const names = [...controllers.keys()];
    return { cgroups: { version, controllers: names }, host: readHost(controllers) };
  } catch (error) {
    return { cgroups: { problem: messageOf(error) }, host: readHost(new Map()) };
  }
}

function selinux(): KernelFacts["selinux"] {
  const enforce = text("/sys/fs/selinux/enforce").trim();
  return enforce === "" ? "off" : enforce === "1" ? "enforcing" : "permissive";
}

function hasFileSystem(name: string): boolean {
  return text("/proc/filesystems")
    .split("\n")
    .some((line) => line.endsWith(`\t${name}`));
}

/** Names in modules.dep are paths, with "-" or "_" in them: "kernel/drivers/net/veth.ko.xz: ...". */
function moduleState(name: string, kernel: string): ModuleState {
  if (existsSync(`/sys/module/${name}`)) return "there";
  const lists = ["builtin", "dep"].map((list) => text(`/lib/modules/${kernel}/modules.${list}`));
  const pattern = new RegExp(`/${name.replaceAll("_", "[-_]")}\\.ko`);
  const [builtin = "", loadable = ""] = lists;
  if (pattern.test(builtin)) return "there";
  if (pattern.test(loadable)) return "loadable";
  return builtin === "" && loadable === "" ? "unknown" : "absent";
}

function sysctl(name: string): string | undefined {
  const path = `/proc/sys/${name.replaceAll(".", "/")}`;
  return existsSync(path) ? text(path).trim() : undefined;
}

export async function readPlaces(config: Config): Promise<PlaceFacts> {
  const { root, state, socket } = config.crib;
  const { socket: cadvisor } = config.cadvisor;
  return {
    root: placeOf(root),
    state: placeOf(state),
    socket: { path: socket, use: await socketUse(socket, askCri) },
    cadvisor: {
      path: cadvisor,
      use:
        cadvisor === ""
          ? { kind: "free" }
          : await socketUse(cadvisor, (path) => askCadvisor(path, root)),
    },
  };
}

function placeOf(path: string): Place {
  let existing = path;
  while (!existsSync(existing)) existing = dirname(existing);
  const real = realpathSync(existing);
  const { bsize, bavail, blocks, ffree, files } = statfsSync(real);
  const mount = mountOf(real);
  return {
    path,
    type: mount?.type ?? "",
    options: mount?.options ?? [],
    freeBytes: bavail * bsize,
    sizeBytes: blocks * bsize,
    freeInodes: ffree,
    inodes: files,
  };
}

/** The mount that a path is on: the longest mount point above it, the last of those mounted there. */
function mountOf(path: string) {
  let best: { point: string; options: string[]; type: string; shared: boolean } | undefined;
  for (const line of text("/proc/self/mountinfo").split("\n")) {
    const [before = "", after = ""] = line.split(" - ");
    const [, , , , point = "", options = "", ...tags] = before.split(" ");
    const [type = "", , superOptions = ""] = after.split(" ");
    const inside = point === "/" || path === point || path.startsWith(`${point}/`);
    if (point === "" || !inside || point.length < (best?.point.length ?? 0)) continue;
    const readOnly = superOptions.split(",").includes("ro") ? ["ro"] : [];
    const shared = tags.some((tag) => tag.startsWith("shared:"));
    best = { point, type, options: [...options.split(","), ...readOnly], shared };
  }
  return best;
}

async function socketUse(
  path: string,
  ask: (path: string) => Promise<string | undefined>,
): Promise<SocketUse> {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return { kind: "free" };
  if (!stat.isSocket()) return { kind: "no-socket" };
  const { answers } = await import("../socket.ts");
  if (!(await answers(path))) return { kind: "dead" };
  const name = await ask(path).catch(() => undefined);
  return name === undefined ? { kind: "other" } : { kind: "crib", name };
}

async function askCri(path: string): Promise<string | undefined> {
  const { connectCri } = await import("../cri-client.ts");
  const { runtime, close } = connectCri(path, { timeoutMs: ANSWER_DEADLINE_MS });
  try {
    const { runtimeName, runtimeVersion } = await runtime.version({});
    return runtimeName === "crib" ? `${runtimeName} ${runtimeVersion}` : undefined;
  } finally {
    close();
  }
}

/** Ours tells our root directory; a CRI-O, or the Crib of another root, tells another one. */
async function askCadvisor(path: string, root: string): Promise<string | undefined> {
  const signal = AbortSignal.timeout(ANSWER_DEADLINE_MS);
  const response = await fetch("http://crib/info", { unix: path, signal });
  const info: unknown = await response.json();
  const said = typeof info === "object" && info !== null && "storage_root" in info && info;
  return said && said.storage_root === root ? "crib" : undefined;
}

function text(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function entries(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
