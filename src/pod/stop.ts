import { rm } from "node:fs/promises";
import type { Core } from "../container/core.ts";
import { podPaths } from "../container/paths.ts";
import { discardDamaged } from "../container/remove.ts";
import { stopContainer } from "../container/stop.ts";
import { messageOf } from "../error.ts";
import { killAll, removeCgroup } from "../linux/cgroup.ts";
import { unmount } from "../linux/mount.ts";
import { log } from "../observe/log.ts";
import { findPod } from "../state/find.ts";
import type { PodRecord } from "../state/records.ts";

const KILL_DEADLINE_MS = 10_000;

/**
 * Stops a pod: kills its containers, gives back its addresses, ends its monitor. Idempotent: an
 * unknown or stopped pod is fine, a stop that failed half-way goes on where it was.
 */
export async function stopPod(core: Core, id: string): Promise<void> {
  const pod = findPod(core.store, id);
  if (pod === undefined || pod.phase === "stopped") return;
  // At once and outside the queue: from here on no container is made or started in it.
  pod.phase = "stopping";
  core.store.savePod(pod);
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

/** Containers are killed, not asked: the kubelet has given them their grace before. */
async function stopContainers(core: Core, pod: PodRecord): Promise<void> {
  await Promise.all(
    core.store.containersOf(pod.id).map(async (container) => {
      // Behind a creation that is under way: it ends with an error, the pod is no longer ready.
      await core.operations.run(`container/${container.id}`, "settle", async () => undefined);
      if (!core.store.containers.has(container.id)) return;
      await stopContainer(core, container.id, 0);
      // Behind the release: its mounts and cgroup are gone when the namespaces go.
      await core.operations.run(`container/${container.id}`, "settle", async () => undefined);
    }),
  );
}

/**
 * Takes away what a pod is made of, except its row. Every step is idempotent and is tried even when
 * one before it fails; the first error is thrown at the end, so that the caller tries again.
 */
export async function dismantle(core: Core, pod: PodRecord): Promise<void> {
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
  });
  for (const path of [...Object.values(pod.namespaces), paths.shm]) {
    await attempt(path, () => {
      if (path !== undefined) unmount(path, { detach: true });
    });
  }
  await attempt("files", () => rm(paths.directory, { recursive: true, force: true }));
  if (errors.length > 0) throw errors[0];
}

/** How long what could not be taken away waits for the next try: at first, and at most. */
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 30_000;

/**
 * Takes away a pod that never became ready; its row goes last. What fails (a CNI DEL, say) is tried
 * again until it succeeds: nobody else knows of the pod.
 */
export async function undoPod(
  core: Core,
  pod: PodRecord,
  retryMs: number = FIRST_RETRY_MS,
): Promise<void> {
  try {
    await dismantle(core, pod);
    core.store.deletePod(pod.id);
  } catch (error) {
    log().error({ podId: pod.id, error: messageOf(error) }, "undoing a pod; trying again");
    const next = Math.min(retryMs * 2, LONGEST_RETRY_MS);
    setTimeout(() => {
      void core.operations.run(`pod/${pod.id}`, "undo", () => undoPod(core, pod, next));
    }, retryMs).unref();
  }
}

async function endMonitor(core: Core, pod: PodRecord): Promise<void> {
  const monitor = core.monitors.get(pod.id);
  if (monitor === undefined) return;
  // First forgotten, then ended: this end is no loss.
  core.monitors.delete(pod.id);
  await monitor.shutdown();
}
