import { existsSync } from "node:fs";
import type { Core } from "../container/core.ts";
import { podPaths } from "../container/paths.ts";
import { discardById } from "../container/remove.ts";
import { messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import type { PodRecord } from "../state/records.ts";
import { endPodOfBefore } from "./lost.ts";
import { untilDone } from "./retry.ts";
import { stopPod, undoPod } from "./stop.ts";
import { adoptPod, connectMonitor } from "./watch.ts";

/** How long callers wait for a pod whose monitor does not answer; its recovery goes on after that. */
const WAIT_MS = 3_000;

/**
 * After a start of the daemon: brings what is recorded in line with what is. All pods at once; one
 * that cannot be recovered is reported and hurts no other. The truth comes from the monitors, their
 * exit records and the cgroups; what was half made is undone.
 *
 * @returns when every pod's state is true again, or its monitor has not answered for a while. Clean-up
 *   goes on in the background.
 */
export async function recover(core: Core): Promise<void> {
  const pods = [...core.store.pods.values()];
  await Promise.all(
    pods.map((pod) => {
      const recovered = recoverPod(core, pod).catch((error: unknown) => {
        log().error({ podId: pod.id, error: messageOf(error) }, "a pod cannot be recovered");
      });
      return Promise.race([recovered, Bun.sleep(WAIT_MS)]);
    }),
  );
  void removeOrphans(core).catch((error: unknown) => {
    log().error({ error: messageOf(error) }, "looking for orphaned writable layers");
  });
  const isKnown = (id: string) =>
    core.store.pods.has(id) || core.store.damaged.includes(`pods/${id}`);
  void core.network.gc(isKnown).catch((error: unknown) => {
    log().error({ error: messageOf(error) }, "collecting stale network attachments");
  });
  if (pods.length > 0) log().info({ pods: pods.length }, "recovered");
}

/** Writable layers that no row knows: a power cut took the row of a container in the making. */
async function removeOrphans(core: Core): Promise<void> {
  for (const id of core.storage.list()) {
    if (core.store.containers.has(id) || core.store.damaged.includes(`containers/${id}`)) continue;
    log().warn({ containerId: id }, "removing a writable layer that belongs to no container");
    await core.storage.remove(id).catch((error: unknown) => {
      log().error({ containerId: id, error: messageOf(error) }, "an orphan cannot be removed");
    });
  }
}

async function recoverPod(core: Core, pod: PodRecord): Promise<void> {
  if (pod.phase !== "creating" && !existsSync(podPaths(core, pod.id).directory)) {
    if (pod.phase !== "stopped") endPodOfBefore(core, pod);
  } else if (pod.phase === "creating") {
    void undoCreation(core, pod);
    return;
  } else if (pod.phase === "ready") {
    await adoptPod(core, pod);
    // A creator that did not live to see the answer asks again: let it find what it made.
    if (core.store.containersOf(pod.id).length === 0) pod.unclaimed = true;
  } else if (pod.phase === "stopping") {
    void finishStop(core, pod);
  }
  for (const container of core.store.containersOf(pod.id)) {
    if (container.phase === "creating") void undoContainer(core, pod, container.id);
  }
}

async function undoCreation(core: Core, pod: PodRecord): Promise<void> {
  log().warn({ podId: pod.id }, "undoing a pod that was being made when the daemon ended");
  const monitor = await connectMonitor(core, pod).catch(() => undefined);
  if (monitor !== undefined) core.monitors.set(pod.id, monitor);
  await undoPod(core, pod);
}

/** A container that was being made when the daemon ended; a monitor may still be making it. */
function undoContainer(core: Core, pod: PodRecord, id: string): Promise<void> {
  log().warn({ containerId: id }, "undoing a container that was being made when the daemon ended");
  return untilDone(pod.id, "undoing a container of", () =>
    core.operations.run(`container/${id}`, "undo", () => discardById(core, pod, id)),
  );
}

/** A pod whose stop was cut short: its containers' ends are still with the monitor, if that lives. */
async function finishStop(core: Core, pod: PodRecord): Promise<void> {
  await adoptPod(core, pod);
  await untilDone(pod.id, "stopping", () => stopPod(core, pod.id));
}
