import { rm } from "node:fs/promises";
import { basename } from "node:path";
import type { Core } from "../container/core.ts";
import { release } from "../container/exit.ts";
import { podPaths } from "../container/paths.ts";
import { discardById, discardDamaged } from "../container/remove.ts";
import { stopContainer } from "../container/stop.ts";
import { messageOf } from "../error.ts";
import { killAll, removeCgroup } from "../linux/cgroup.ts";
import { stopScope } from "../linux/systemd.ts";
import { log } from "../observe/log.ts";
import { findPod } from "../state/find.ts";
import type { PodRecord } from "../state/records.ts";
import { untilDone } from "./retry.ts";

const KILL_DEADLINE_MS = 10_000;
const SCOPE_DEADLINE_MS = 10_000;

/**
 * Stops a pod: kills its containers, gives back its addresses, ends its monitor. Idempotent: an
 * unknown or stopped pod is fine, a stop that failed half-way goes on where it was.
 */
export async function stopPod(core: Core, id: string): Promise<void> {
  const pod = findPod(core.store, id);
  if (pod === undefined || pod.phase === "stopped") return;
  // At once and outside the queue: from here on no container is made or started in it.
  markStopping(core, pod);
  await core.operations.run(`pod/${pod.id}`, "stop", async (operation) => {
    if (pod.phase === "stopped" || !core.store.pods.has(pod.id)) return;
    operation.stage("containers");
    await stopContainers(core, pod);
    await discardDamaged(core, pod);
    operation.stage("network, monitor, mounts, cgroup");
    await dismantle(core, pod);
    pod.phase = "stopped";
    pod.ips = [];
    core.store.savePod(pod);
    log().info({ podId: pod.id }, "pod sandbox stopped");
  });
}

/** From here on the pod is not ready. */
export function markStopping(core: Core, pod: PodRecord): void {
  if (pod.phase === "stopping") return;
  pod.phase = "stopping";
  try {
    core.store.savePod(pod);
  } catch (error) {
    // A full disk is often why a pod is stopped: a restarted daemon would find it ready, and adopt it.
    log().error({ podId: pod.id, error: messageOf(error) }, "not recorded that a pod is stopping");
  }
}

/** Containers are killed, not asked: the kubelet has given them their grace before. */
async function stopContainers(core: Core, pod: PodRecord): Promise<void> {
  await Promise.all(
    core.store.containersOf(pod.id).map(async ({ id }) => {
      // Behind a creation that is under way: it ends with an error, the pod is no longer ready.
      await core.operations.run(`container/${id}`, "settle", async () => undefined);
      const container = core.store.containers.get(id);
      if (container === undefined) return;
      // One whose creation failed and could not be undone.
      if (container.phase === "creating") return discardById(core, pod, id);
      await stopContainer(core, id, 0);
      // Its mounts and cgroup are gone when the namespaces go; what failed before is tried again.
      await core.operations.run(`container/${id}`, "release", () => release(core, container));
    }),
  );
}

/**
 * Takes away what a pod is made of, except its row. Every step is idempotent and is tried even when
 * one before it fails; the first error is thrown at the end, so that the caller tries again.
 */
async function dismantle(core: Core, pod: PodRecord): Promise<void> {
  const errors: unknown[] = [];
  const attempt = async (what: string, step: () => Promise<void> | void) => {
    try {
      await step();
    } catch (error) {
      errors.push(error);
      log().error({ podId: pod.id, what, error: messageOf(error) }, "tearing down a pod");
    }
  };
  const paths = podPaths(core, pod.id);
  await attempt("network", () => core.network.del(pod.id));
  await attempt("monitor", () => endMonitor(core, pod));
  await attempt("pod cgroup", async () => {
    await killAll(core.cgroups, pod.cgroup, KILL_DEADLINE_MS);
    await removeCgroup(core.cgroups, pod.cgroup);
    // systemd does not always notice the end of a cgroup that goes under its hands.
    const unit = basename(pod.cgroup);
    if (unit.endsWith(".scope")) await stopScope(unit, SCOPE_DEADLINE_MS);
  });
  const shmOfOlder = `${paths.directory}/shm`;
  const pins = Object.values(pod.namespaces).filter((path) => path !== undefined);
  await attempt("mounts", () => core.unmount([...pins, paths.lent, shmOfOlder], { lazy: true }));
  await attempt("files", () => rm(paths.directory, { recursive: true, force: true }));
  if (errors.length > 0) throw errors[0];
}

/** Takes away a pod that never became ready, until it succeeds; its row goes last. */
export function undoPod(core: Core, pod: PodRecord): Promise<void> {
  return untilDone(pod.id, "undoing", async () => {
    await dismantle(core, pod);
    core.store.deletePod(pod.id);
  });
}

async function endMonitor(core: Core, pod: PodRecord): Promise<void> {
  const monitor = core.monitors.get(pod.id);
  if (monitor === undefined) return;
  // First forgotten, then ended: this end is no loss.
  core.monitors.delete(pod.id);
  await monitor.shutdown();
}
