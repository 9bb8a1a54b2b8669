import { rm } from "node:fs/promises";
import { killAll, processes, removeCgroup } from "../linux/cgroup.ts";
import { isMonitor } from "../monitor/start.ts";
import { log } from "../observe/log.ts";
import { findContainer } from "../state/find.ts";
import type { ContainerRecord, PodRecord } from "../state/records.ts";
import type { Core } from "./core.ts";
import { release } from "./exit.ts";
import { containerPaths } from "./paths.ts";
import { placementOf } from "./placement.ts";
import { stopContainer } from "./stop.ts";
import { unpinTarget } from "./target.ts";

/** Removes a container, killing it first when it runs. Idempotent: an unknown one is fine. */
export async function removeContainer(core: Core, id: string): Promise<void> {
  const container = findContainer(core.store, id);
  if (container === undefined) return;
  await stopContainer(core, container.id, 0);
  await core.operations.run(`container/${container.id}`, "remove", async (operation) => {
    if (!core.store.containers.has(container.id)) return;
    operation.stage("releasing");
    await discardContainer(core, container);
    log().info({ containerId: container.id }, "container removed");
  });
}

const KILL_DEADLINE_MS = 10_000;

/** Takes away a pod's containers whose rows cannot be read. */
export async function discardDamaged(core: Core, pod: PodRecord): Promise<void> {
  for (const id of core.store.damagedContainersOf(pod.id)) {
    log().warn({ containerId: id, podId: pod.id }, "removing a container whose row is damaged");
    await discardById(core, pod, id);
  }
}

/**
 * Takes away a container that was never finished, or of which no more is known than its id: all that it
 * has is named by that. The monitor first: it may still be making it.
 */
export async function discardById(core: Core, pod: PodRecord, id: string): Promise<void> {
  const monitor = core.monitors.get(pod.id);
  await monitor?.forget(id).catch(() => undefined);
  await killOrphanedRuntimes(core, pod);
  const cgroup = placementOf(core, pod.config, id).path;
  await killAll(core.cgroups, cgroup, KILL_DEADLINE_MS);
  await core.handlers.find(pod.handler)?.delete(id);
  // A runtime that was killed before it wrote down what it had made knows of none.
  await removeCgroup(core.cgroups, cgroup);
  await core.storage.remove(id);
  await unpinTarget(core, id);
  await rm(containerPaths(core, id).bundle, { recursive: true, force: true });
  core.store.deleteContainer(id);
  // Once more, for one that was running when it was first asked to.
  await monitor?.forget(id).catch(() => undefined);
}

/** The runtime of a monitor that is dead lives on in the pod's cgroup, and would make what is taken away. */
async function killOrphanedRuntimes(core: Core, pod: PodRecord): Promise<void> {
  const { monitorPid } = pod;
  const isThere = (await processes(core.cgroups, pod.cgroup)).includes(monitorPid);
  if (isThere && isMonitor(monitorPid, pod.id)) return;
  await killAll(core.cgroups, pod.cgroup, KILL_DEADLINE_MS);
}

/** Takes away everything of a container that has ended; the row goes last. */
async function discardContainer(core: Core, container: ContainerRecord): Promise<void> {
  await release(core, container);
  await core.storage.remove(container.id);
  await rm(containerPaths(core, container.id).bundle, { recursive: true, force: true });
  core.store.deleteContainer(container.id);
}
