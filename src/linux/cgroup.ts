/**
 * cgroup directories: create, fill, empty, remove. Paths are cgroup paths ("/kubepods/podX/crio-ID"),
 * the same in every tree; the files are the kernel's, so reads and writes are synchronous and only
 * waits are not. See cgroups(7) and Documentation/admin-guide/cgroup-v2.rst of the kernel.
 */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { rmdir } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { CribError } from "../error.ts";
import type { CgroupHierarchy, CgroupHost } from "./cgroup-host.ts";
import { childrenOf, walkCgroups } from "./cgroup-walk.ts";
import { codeOf } from "./errno.ts";
import { attemptUnless, readKernelFile, writeKernelFile } from "./kernel-file.ts";
import { killIf } from "./process.ts";

export { type CgroupHierarchy, type CgroupHost, detectCgroups } from "./cgroup-host.ts";

const REMOVE_WAIT_MS = 5_000;
const LONGEST_PAUSE_MS = 50;

/**
 * Returns `path` without doubled or trailing slashes. Throws `InvalidArgument` when it is relative or
 * holds "." or "..": the names come from a client, and must not lead out of the tree.
 */
export function checkCgroupPath(path: string): string {
  const parts = path.split("/").filter((part) => part !== "");
  if (!path.startsWith("/")) {
    throw new CribError("InvalidArgument", `cgroup path ${JSON.stringify(path)}: not absolute`);
  }
  if (parts.some((part) => part === "." || part === "..") || /[\0\n]/.test(path)) {
    throw new CribError(
      "InvalidArgument",
      `cgroup path ${JSON.stringify(path)}: ".", "..", NUL and newline are not allowed`,
    );
  }
  return `/${parts.join("/")}`;
}

/** A path that may be changed: not the root of the tree, where the whole host lives. */
function ownPath(path: string): string {
  const checked = checkCgroupPath(path);
  if (checked === "/") {
    throw new CribError("InvalidArgument", "cgroup path /: the root cgroup is not ours to change");
  }
  return checked;
}

function directoryIn(hierarchy: CgroupHierarchy, path: string): string {
  return path === "/" ? hierarchy.mountPoint : `${hierarchy.mountPoint}${path}`;
}

/** The directory of a cgroup in its controller's tree; undefined when the host lacks the controller. */
export function cgroupDirectory(
  host: CgroupHost,
  controller: string,
  path: string,
): string | undefined {
  const mountPoint = host.controllers.get(controller);
  if (mountPoint === undefined) return undefined;
  return `${mountPoint}${checkCgroupPath(path)}`;
}

/** The trees that a new cgroup is made in: all, but a hybrid host's v2 tree. */
function writable(host: CgroupHost): CgroupHierarchy[] {
  return host.hierarchies.filter((tree) => tree.unified === (host.version === 2));
}

/** Whether the cgroup exists in at least one tree. */
export function cgroupExists(host: CgroupHost, path: string): boolean {
  const checked = checkCgroupPath(path);
  return host.hierarchies.some((tree) => existsSync(directoryIn(tree, checked)));
}

/** A v1 cpuset starts empty, and refuses processes until it has CPUs and memory nodes. */
function inheritCpuset(directory: string, parent: string): void {
  for (const name of ["cpus", "mems"]) {
    const own = readKernelFile(`${directory}/cpuset.${name}`)?.trim();
    if (own !== "") continue;
    const value =
      readKernelFile(`${parent}/cpuset.${name}`)?.trim() ||
      readKernelFile(`${parent}/cpuset.effective_${name}`)?.trim();
    if (value) writeKernelFile(`${directory}/cpuset.${name}`, value);
  }
}

/**
 * Hands the parent's controllers down to its children. One by one: a single refused controller (EBUSY:
 * the parent holds processes; EINVAL, ENOENT: not for this tree) must not cost the others.
 */
function enableControllers(parent: string): void {
  const enabled = new Set(readKernelFile(`${parent}/cgroup.subtree_control`)?.split(/\s+/));
  const available = readKernelFile(`${parent}/cgroup.controllers`)?.split(/\s+/) ?? [];
  for (const name of available) {
    if (name === "" || enabled.has(name)) continue;
    attemptUnless(["EBUSY", "EINVAL", "ENOENT", "EOPNOTSUPP", "EPERM"], "write", parent, () =>
      writeKernelFile(`${parent}/cgroup.subtree_control`, `+${name}`),
    );
  }
}

/**
 * Makes the cgroup and its missing parents in all trees, ready for processes (v1: cpuset filled from
 * the parent) and limits (v2: controllers enabled down the path as far as the kernel lets us; what is
 * there in the end says `availableControllers`). An existing cgroup is kept.
 */
export function createCgroup(host: CgroupHost, path: string): void {
  const parts = ownPath(path).slice(1).split("/");
  for (const tree of writable(host)) {
    let parent = tree.mountPoint;
    for (const part of parts) {
      if (tree.unified) enableControllers(parent);
      const directory = `${parent}/${part}`;
      attemptUnless(["EEXIST"], "mkdir", directory, () => mkdirSync(directory));
      if (tree.controllers.includes("cpuset") && !tree.unified) inheritCpuset(directory, parent);
      parent = directory;
    }
  }
}

/** The controllers that work in this cgroup. v1: those whose tree has it; v2: cgroup.controllers. */
export function availableControllers(host: CgroupHost, path: string): string[] {
  const checked = checkCgroupPath(path);
  const trees = writable(host).filter((tree) => existsSync(directoryIn(tree, checked)));
  if (host.version === 1) return trees.flatMap((tree) => tree.controllers);
  return trees.flatMap((tree) => {
    const text = readKernelFile(`${directoryIn(tree, checked)}/cgroup.controllers`) ?? "";
    return text.split(/\s+/).filter(Boolean);
  });
}

/**
 * Moves a process (all of its threads) into an existing cgroup, in all trees. On v2 a cgroup that has
 * children is refused (`FailedPrecondition`): processes in it would keep controllers from its children.
 */
export function addProcess(host: CgroupHost, path: string, pid: number): void {
  const checked = ownPath(path);
  for (const tree of writable(host)) {
    const directory = directoryIn(tree, checked);
    if (tree.unified && childrenOf(directory).length > 0) {
      throw new CribError(
        "FailedPrecondition",
        `cgroup ${checked}: has child cgroups, so process ${pid} may not be put in it (cgroup v2)`,
      );
    }
    writeKernelFile(`${directory}/cgroup.procs`, String(pid));
  }
}

/**
 * The files of an existing cgroup, one a tree, by which a single-threaded process moves itself into it:
 * it writes "0". On v1 that is "tasks", which costs no grace period, unlike cgroup.procs.
 */
export function joinFiles(host: CgroupHost, path: string): string[] {
  const checked = ownPath(path);
  const file = host.version === 1 ? "tasks" : "cgroup.procs";
  return writable(host).map((tree) => `${directoryIn(tree, checked)}/${file}`);
}

/** Pids in the cgroup and its children, in any tree. 0 stands for one in another PID namespace. */
async function scan(host: CgroupHost, path: string): Promise<Set<number>> {
  const pids = new Set<number>();
  for (const tree of host.hierarchies) {
    const top = directoryIn(tree, path);
    // Who is in a threaded child is in the list of the domain above it too; where that is not ours to see,
    // the threads are listed.
    const file = isThreaded(top) ? "cgroup.threads" : "cgroup.procs";
    await walkCgroups(top, {
      visit(directory) {
        for (const line of readKernelFile(`${directory}/${file}`)?.split("\n") ?? []) {
          if (line !== "") pids.add(Number(line));
        }
      },
    });
  }
  return pids;
}

function isThreaded(directory: string): boolean {
  return readKernelFile(`${directory}/cgroup.type`)?.trim() === "threaded";
}

/** The pids in a cgroup and its children; a missing cgroup has none. */
export async function processes(host: CgroupHost, path: string): Promise<number[]> {
  const pids = await scan(host, checkCgroupPath(path));
  pids.delete(0);
  return [...pids].sort((a, b) => a - b);
}

/** v1: a frozen process does not die, and a frozen cgroup cannot fork away from the signals. */
async function setFreezer(
  host: CgroupHost,
  path: string,
  state: "FROZEN" | "THAWED",
): Promise<void> {
  const mountPoint = host.version === 1 ? host.controllers.get("freezer") : undefined;
  if (mountPoint === undefined) return;
  await walkCgroups(`${mountPoint}${path}`, {
    visit(directory) {
      attemptUnless(["ENOENT", "ENODEV", "EBUSY"], "write", directory, () =>
        writeKernelFile(`${directory}/freezer.state`, state),
      );
    },
  });
}

async function killOnce(host: CgroupHost, path: string): Promise<void> {
  if (host.version === 2) {
    const mountPoint = host.hierarchies[0]?.mountPoint ?? "";
    try {
      writeKernelFile(`${mountPoint}${path}/cgroup.kill`, "1");
      return;
    } catch (error) {
      // Linux < 5.14, or the cgroup is threaded or gone: one by one.
      if (!["ENOENT", "EOPNOTSUPP", "ENODEV"].includes(codeOf(error))) throw error;
    }
  }
  await setFreezer(host, path, "FROZEN");
  try {
    for (const pid of await scan(host, path)) {
      // kill(0) would end our own process group.
      if (pid <= 0 || pid === process.pid) continue;
      killIf(pid, () => holds(host, path, pid));
    }
  } finally {
    await setFreezer(host, path, "THAWED");
  }
}

/**
 * SIGKILLs everything in the cgroup and its children, and waits until they are gone. A missing cgroup
 * is empty. Throws `DeadlineExceeded` with the pids left after `deadlineMs` milliseconds, and
 * `FailedPrecondition` when the calling process is itself in there.
 */
export async function killAll(host: CgroupHost, path: string, deadlineMs: number): Promise<void> {
  const checked = ownPath(path);
  const end = performance.now() + deadlineMs;
  let left = await scan(host, checked);
  for (let pauseMs = 1; left.size > 0; pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)) {
    if (left.has(process.pid)) {
      throw new CribError("FailedPrecondition", `cgroup ${checked}: holds this daemon itself`);
    }
    if (performance.now() > end) {
      throw new CribError(
        "DeadlineExceeded",
        `cgroup ${checked}: processes ${[...left].join(", ")} are alive ${deadlineMs} ms after SIGKILL`,
      );
    }
    await killOnce(host, checked);
    await sleep(pauseMs);
    left = await scan(host, checked);
  }
}

/** Not synchronously: the kernel lets it wait for all others that change cgroups. */
async function remove(directory: string): Promise<void> {
  await rmdir(directory).catch((error: unknown) =>
    attemptUnless(["ENOENT"], "rmdir", directory, () => {
      throw error;
    }),
  );
}

async function removeTree(directory: string, end: number): Promise<void> {
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)) {
    try {
      await walkCgroups(directory, { leave: (parent, name) => remove(`${parent}/${name}`) });
      await remove(directory);
      return;
    } catch (error) {
      // EBUSY: dying processes, or a child cgroup made since; both may pass.
      if (codeOf(error) !== "EBUSY" || performance.now() > end) throw error;
    }
    await sleep(pauseMs);
  }
}

/**
 * Removes the cgroup and its children from all trees; missing is fine. Processes must be gone or going:
 * EBUSY is retried for `waitMs` milliseconds, then thrown as a `SyscallError`. All trees are tried.
 */
export async function removeCgroup(
  host: CgroupHost,
  path: string,
  waitMs: number = REMOVE_WAIT_MS,
): Promise<void> {
  const checked = ownPath(path);
  const end = performance.now() + waitMs;
  const errors: unknown[] = [];
  for (const tree of host.hierarchies) {
    await removeTree(directoryIn(tree, checked), end).catch((error) => errors.push(error));
  }
  if (errors.length > 0) throw errors[0];
}

/**
 * The file whose "oom_kill" line counts the processes that the kernel killed for memory in this cgroup;
 * "" without a memory controller.
 */
export function oomFile(host: CgroupHost, path: string): string {
  const directory = cgroupDirectory(host, "memory", path);
  if (directory === undefined) return "";
  return `${directory}/${host.version === 2 ? "memory.events" : "memory.oom_control"}`;
}

/** Parses /proc/PID/cgroup: controller ("" for the v2 tree, also "name=systemd") → cgroup path. */
export function parseProcCgroup(text: string): Map<string, string> {
  const paths = new Map<string, string>();
  for (const line of text.split("\n")) {
    const [, , controllers, path] = /^(\d+):([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    const alive = path.replace(/ \(deleted\)$/, "");
    for (const name of controllers.split(",")) paths.set(name, alive);
  }
  return paths;
}

/** The cgroups of a process, as in its /proc/PID/cgroup; undefined when it is gone. */
function cgroupsOf(pid: number | "self"): Map<string, string> | undefined {
  const path = `/proc/${pid}/cgroup`;
  const text = attemptUnless(["ENOENT", "ESRCH"], "read", path, () => readFileSync(path, "utf8"));
  return text === undefined ? undefined : parseProcCgroup(text);
}

/** A process's path in a tree, as seen at its mount point. */
function visiblePath({ root }: CgroupHierarchy, path: string): string {
  if (root === "/" || (path !== root && !path.startsWith(`${root}/`))) return path;
  return path.slice(root.length) || "/";
}

/** Whether a process is in the cgroup or below it, in any tree. */
function holds(host: CgroupHost, path: string, pid: number): boolean {
  const cgroups = cgroupsOf(pid);
  return host.hierarchies.some((tree) => {
    const own = cgroups?.get(tree.unified ? "" : (tree.controllers[0] ?? ""));
    return own !== undefined && `${visiblePath(tree, own)}/`.startsWith(`${path}/`);
  });
}

/**
 * The cgroup of a process, as a path that this file's functions take. On v1 a process has one per tree:
 * that of `controller`. undefined when the process is gone or the tree is not there.
 */
export function cgroupOf(
  host: CgroupHost,
  pid: number | "self",
  controller = "memory",
): string | undefined {
  const path = cgroupsOf(pid)?.get(host.version === 2 ? "" : controller);
  const mountPoint = host.controllers.get(controller) ?? host.hierarchies[0]?.mountPoint;
  const tree = host.hierarchies.find((each) => each.mountPoint === mountPoint);
  return path === undefined || tree === undefined ? undefined : visiblePath(tree, path);
}
