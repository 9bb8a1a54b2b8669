import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Set to a run's id in the environment of each test process: finds its orphans again. */
export const runMarker = "CRIB_TEST_RUN";

/** Processes of this PID namespace whose environment carries the run's id, as "pid command". */
export function markedProcesses(runId: string): string[] {
  const found: string[] = [];
  for (const pid of readdirSync("/proc")) {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue;
    const environment = readOrEmpty(`/proc/${pid}/environ`).split("\0");
    if (!environment.includes(`${runMarker}=${runId}`)) continue;
    const command = readOrEmpty(`/proc/${pid}/cmdline`).replaceAll("\0", " ").trim();
    if (command !== "") found.push(`process: ${pid} ${command.slice(0, 160)}`);
  }
  return found;
}

/**
 * Cgroup directories named crib-test*, at most three levels below `root` (v1 has a level for the
 * controller; slices and tests nest one more).
 */
export function testCgroups(root = "/sys/fs/cgroup", depth = 3): string[] {
  const found: string[] = [];
  for (const entry of listDirectories(root)) {
    const path = join(root, entry);
    if (entry.startsWith("crib-test")) found.push(path);
    else if (depth > 1) found.push(...testCgroups(path, depth - 1));
  }
  return found;
}

/**
 * The cgroups of `now` that were not there `before`, as long as nobody outside uses them: a
 * process of another PID namespace, such as a second test run, reads as pid 0.
 */
export function leftCgroups(before: string[], now = testCgroups()): string[] {
  return now
    .filter((path) => !before.includes(path))
    .filter((path) => !readOrEmpty(join(path, "cgroup.procs")).split("\n").includes("0"))
    .map((path) => `cgroup: ${path}`);
}

function listDirectories(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    return []; // removed while we looked
  }
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // the process or the cgroup is gone
  }
}
