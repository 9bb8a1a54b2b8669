/**
 * Where a container's cgroup goes with each cgroup driver, and transient scopes through systemd's
 * D-Bus API, called with busctl (a part of systemd): systemd.slice(5), org.freedesktop.systemd1(5).
 */
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { CribError, messageOf } from "../error.ts";
import { type CgroupHost, cgroupOf, checkCgroupPath } from "./cgroup.ts";
import { type CommandResult, runCommand } from "./command.ts";

export type CgroupDriver = "systemd" | "cgroupfs";

/** The parents of pods that name none (cgroup_parent ""). */
const DEFAULT_PARENT: Record<CgroupDriver, string> = {
  systemd: "crib.slice",
  cgroupfs: "/crib",
};

export const SYSTEMD_REMEDY =
  'start systemd and D-Bus, or set runtime.cgroup_driver = "cgroupfs" and the kubelet\'s cgroupDriver to the same';

/** Kubelets since 1.34 ask for the driver (RuntimeConfig); older ones are told by their configuration. */
const oneDriver = (driver: CgroupDriver) =>
  `set the kubelet's cgroupDriver to ${driver}, as runtime.cgroup_driver is, or change the latter`;

/** Whether systemd is this host's service manager, by sd_booted(3). */
export function systemdRunning(): boolean {
  return existsSync("/run/systemd/system");
}

/**
 * The cgroup path of a slice unit: "a-b.slice" → "/a.slice/a-b.slice"; "-.slice" → "/".
 * Throws `InvalidArgument`, naming what was `given`, for a name that systemd would not take.
 */
export function expandSlice(name: string, given = name): string {
  const refuse = (why: string) =>
    new CribError("InvalidArgument", `cgroup parent ${JSON.stringify(given)}: ${why}`);
  if (!name.endsWith(".slice"))
    throw refuse(`not a systemd slice (NAME.slice): ${oneDriver("systemd")}`);
  if (name === "-.slice") return "/";
  if (!/^[A-Za-z0-9:_.\\-]+$/.test(name)) throw refuse("a character that unit names may not hold");
  if (name.length > 255) throw refuse("longer than 255 characters");
  const parts = name.slice(0, -".slice".length).split("-");
  if (parts.includes("")) throw refuse("an empty part before, after or between dashes");
  return parts.map((_, index) => `/${parts.slice(0, index + 1).join("-")}.slice`).join("");
}

/** Where a cgroup of ours is, in the forms that its users need. */
export interface CgroupPlacement {
  /** The cgroup path on the host. */
  path: string;
  /** `linux.cgroupsPath` of config.json; with systemd runc's form "slice:prefix:name". */
  cgroupsPath: string;
  /** With the systemd driver: the scope and the slice that it is in. */
  unit?: string;
  slice?: string;
}

function sliceOf(parent: string): string {
  // The kubelet sends the whole path, crictl users the unit's name.
  const path = parent.includes("/") ? checkCgroupPath(parent) : parent;
  const name = path === "/" ? "-.slice" : path.slice(path.lastIndexOf("/") + 1);
  const expanded = expandSlice(name, parent);
  if (path.includes("/") && path !== expanded) {
    throw new CribError(
      "InvalidArgument",
      `cgroup parent ${JSON.stringify(parent)}: systemd puts ${name} at ${expanded}`,
    );
  }
  return name;
}

/**
 * The place of the cgroup for `id` (64 hex digits) below `parent` ("" = the driver's default). Its last
 * element is crio-ID or crio-ID.scope: the names that the kubelet's cAdvisor knows.
 * Throws `InvalidArgument` when the parent does not fit the driver.
 */
export function placeCgroup(driver: CgroupDriver, parent: string, id: string): CgroupPlacement {
  const wanted = parent === "" ? DEFAULT_PARENT[driver] : parent;
  if (driver === "systemd") {
    const slice = sliceOf(wanted);
    const unit = `crio-${id}.scope`;
    const path = checkCgroupPath(`${expandSlice(slice)}/${unit}`);
    return { path, cgroupsPath: `${slice}:crio:${id}`, unit, slice };
  }
  if (wanted.endsWith(".slice")) {
    throw new CribError(
      "InvalidArgument",
      `cgroup parent ${JSON.stringify(parent)}: a systemd slice, but runtime.cgroup_driver is cgroupfs: ` +
        oneDriver("cgroupfs"),
    );
  }
  const path = checkCgroupPath(`${checkCgroupPath(wanted)}/crio-${id}`);
  return { path, cgroupsPath: path };
}

export interface ScopeOptions {
  /** "NAME.scope" */
  unit: string;
  /** "NAME.slice"; systemd makes it when it is missing. */
  slice: string;
  /** The processes that the scope starts with; a scope cannot be empty. */
  pids: readonly number[];
  description: string;
  deadlineMs: number;
}

/** "--": busctl takes options anywhere, and "-.slice" would be one. */
const CALL_MANAGER = [
  ...["busctl", "--system", "--quiet", "--", "call"],
  "org.freedesktop.systemd1",
  "/org/freedesktop/systemd1",
  "org.freedesktop.systemd1.Manager",
];

/** The busctl command that makes a delegated scope: StartTransientUnit(name, mode, properties, aux). */
export function startScopeCommand(options: ScopeOptions): string[] {
  const properties = [
    ["Description", "s", options.description],
    ["Slice", "s", options.slice],
    ["PIDs", "au", String(options.pids.length), ...options.pids.map(String)],
    // Ours to divide: systemd keeps its hands off what is below.
    ["Delegate", "b", "true"],
    // Pods outlive the daemon and the shutdown order of ordinary services.
    ["DefaultDependencies", "b", "false"],
    // A failed scope must not keep its name.
    ["CollectMode", "s", "inactive-or-failed"],
    ...["CPU", "Memory", "IO", "Tasks"].map((name) => [`${name}Accounting`, "b", "true"]),
  ];
  return [
    ...CALL_MANAGER,
    ...["StartTransientUnit", "ssa(sv)a(sa(sv))", options.unit, "fail"],
    String(properties.length),
    ...properties.flat(),
    "0",
  ];
}

type Run = (argv: string[], options: { deadlineMs: number }) => Promise<CommandResult>;

async function call(what: string, argv: string[], deadlineMs: number, run: Run) {
  const result = await run(argv, { deadlineMs }).catch((error: unknown) => {
    throw new CribError(
      "FailedPrecondition",
      `cgroup_driver systemd: ${what}: cannot run busctl: ${messageOf(error)}; ${SYSTEMD_REMEDY}`,
      { cause: error },
    );
  });
  if (result.timedOut) {
    throw new CribError(
      "DeadlineExceeded",
      `cgroup_driver systemd: ${what}: no answer from systemd within ${deadlineMs} ms`,
    );
  }
  return result;
}

/** What busctl said, with the remedy where systemd or the bus is not there. */
function explain(stderr: string): string {
  if (!systemdRunning()) return `${stderr.trim()}; systemd is not running here: ${SYSTEMD_REMEDY}`;
  return /connect.*\bbus\b/i.test(stderr) ? `${stderr.trim()}; ${SYSTEMD_REMEDY}` : stderr.trim();
}

/** Waits until the kernel shows all pids in the unit: the D-Bus call answers before systemd is done. */
async function waitForMembers(host: CgroupHost, options: ScopeOptions, end: number): Promise<void> {
  const suffix = `/${options.unit}`;
  const tree = host.version === 1 ? "name=systemd" : "memory";
  for (;;) {
    const outside = options.pids.filter((pid) => !cgroupOf(host, pid, tree)?.endsWith(suffix));
    if (outside.length === 0) return;
    if (performance.now() > end) {
      throw new CribError(
        "DeadlineExceeded",
        `cgroup_driver systemd: ${options.unit}: processes ${outside.join(", ")} were not moved ` +
          `into it within ${options.deadlineMs} ms`,
      );
    }
    await sleep(2);
  }
}

/**
 * Makes a transient, delegated scope that holds `pids`, and waits until they are in it.
 * Throws `FailedPrecondition` when systemd or D-Bus is not there or refuses, `DeadlineExceeded` when
 * it does not do it in time.
 */
export async function startScope(
  host: CgroupHost,
  options: ScopeOptions,
  run: Run = runCommand,
): Promise<void> {
  const end = performance.now() + options.deadlineMs;
  const result = await call(options.unit, startScopeCommand(options), options.deadlineMs, run);
  if (result.exitCode !== 0) {
    throw new CribError(
      "FailedPrecondition",
      `cgroup_driver systemd: ${options.unit} in ${options.slice}: ${explain(result.stderr)}`,
    );
  }
  await waitForMembers(host, options, end);
}

/** Stops a scope and with it all of its processes; one that is not there is fine. */
export async function stopScope(
  unit: string,
  deadlineMs: number,
  run: Run = runCommand,
): Promise<void> {
  const argv = [...CALL_MANAGER, "StopUnit", "ss", unit, "replace"];
  const result = await call(unit, argv, deadlineMs, run);
  if (result.exitCode === 0 || /not loaded|NoSuchUnit/.test(result.stderr)) return;
  throw new CribError(
    "FailedPrecondition",
    `cgroup_driver systemd: stop ${unit}: ${explain(result.stderr)}`,
  );
}
