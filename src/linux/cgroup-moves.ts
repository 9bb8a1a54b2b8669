import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import type { CgroupHost } from "./cgroup-host.ts";

/**
 * Makes the next moves of processes between cgroups quick. To be called shortly before an OCI runtime is
 * run that makes a process; returns at once, and never fails.
 *
 * Before a move the kernel waits for an RCU grace period, some 10 ms, unless it has just done so
 * (cgroup_threadgroup_rwsem, kernel/rcu/sync.c). A runtime has to move what it makes in each tree of
 * cgroup v1. So we "move" ourselves to where we are, and the waiting is over when the runtime is loaded.
 * On v2 nothing is done: runtimes move once, or start processes where they belong (CLONE_INTO_CGROUP).
 */
export function quickenMoves(host: CgroupHost): void {
  const tree = host.hierarchies.find(({ unified }) => !unified);
  if (host.version !== 1 || tree === undefined) return;
  const name = tree.controllers.join(",");
  const own = readFileSync("/proc/self/cgroup", "utf8")
    .split("\n")
    .map((line) => line.split(":"))
    .find(([, controllers]) => controllers === name)?.[2];
  if (own === undefined || own.includes("..")) return;
  writeFile(`${tree.mountPoint}${own}/cgroup.procs`, "0").catch(() => undefined);
}
