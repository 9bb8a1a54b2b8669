import { existsSync } from "node:fs";
import type { Core } from "../container/core.ts";
import { endingOf, finish } from "../container/exit.ts";
import { podPaths } from "../container/paths.ts";
import { discardContainer } from "../container/remove.ts";
import { messageOf } from "../error.ts";
import { adoptMonitor } from "../monitor/adopt.ts";
import type { Monitor } from "../monitor/client.ts";
import { log } from "../observe/log.ts";
import { nowNs } from "../state/clock.ts";
import type { ContainerRecord, PodRecord } from "../state/records.ts";
import { endContainers } from "./lost.ts";
import { watchMonitor } from "./run.ts";
import { stopPod, undoPod } from "./stop.ts";

/** How long the network of a stopped pod that could not be given back waits for the next try. */
const RETRY_MS = 10_000;
const UNKNOWN_EXIT_CODE = 255;

/**
 * After a start of the daemon: brings what is recorded in line with what is. All pods at once; one
 * that cannot be recovered is reported and hurts no other. The truth comes from the monitors, their
 * exit records and the cgroups; what was half made is undone.
 *
 * @returns when every pod's state is true again. Slow clean-up goes on behind the operations' queues.
 */
export async function recover(core: Core): Promise<void> {
  const pods = [...core.store.pods.values()];
  await Promise.all(
    pods.map((pod) =>
      recoverPod(core, pod).catch((error: unknown) => {
        log().error({ podId: pod.id, error: messageOf(error) }, "a pod cannot be recovered");
      }),
    ),
  );
  await removeOrphans(core);
  const damaged = core.store.damaged.map((row) => row.replace(/^pods\//, ""));
  void core.network.gc([...core.store.pods.keys(), ...damaged]).catch((error: unknown) => {
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
  switch (pod.phase) {
    case "creating":
      await undoCreation(core, pod);
      return;
    case "ready":
      await adoptPod(core, pod);
      return;
    case "stopping":
      finishInBackground(core, pod, "the daemon was restarted while it was being stopped");
      return;
    case "stopped":
      await undoContainers(core, pod);
      return;
  }
}

async function undoCreation(core: Core, pod: PodRecord): Promise<void> {
  log().warn({ podId: pod.id }, "undoing a pod that was being made when the daemon ended");
  const monitor = await tryAdopt(core, pod);
  if (monitor !== undefined) core.monitors.set(pod.id, monitor);
  await undoPod(core, pod);
}

async function adoptPod(core: Core, pod: PodRecord): Promise<void> {
  const monitor = await tryAdopt(core, pod);
  if (monitor === undefined) {
    const rebooted = !existsSync(podPaths(core, pod.id).directory);
    finishInBackground(core, pod, rebooted ? "the node was restarted" : "its pod's monitor died");
    return;
  }
  watchMonitor(core, pod, monitor);
  await undoContainers(core, pod);
  const known = new Map((await monitor.list()).map((entry) => [entry.id, entry]));
  for (const container of core.store.containersOf(pod.id)) {
    if (container.phase === "exited") continue;
    const entry = known.get(container.id);
    if (entry?.exit !== undefined) finish(core, container, endingOf(entry.exit));
    else if (entry === undefined) {
      finish(core, container, {
        exitCode: UNKNOWN_EXIT_CODE,
        finishedAtNs: nowNs(),
        reason: "Unknown",
        message: "the pod's monitor does not know this container",
      });
    } else await adoptContainer(core, pod, container, entry.pid);
  }
  // A creator that did not live to see the answer asks again: let it find what it made.
  if (core.store.containersOf(pod.id).length === 0) pod.unclaimed = true;
  core.store.savePod(pod);
}

/** A container that lives. The daemon may have ended between starting it and writing that down. */
async function adoptContainer(
  core: Core,
  pod: PodRecord,
  container: ContainerRecord,
  pid: number,
): Promise<void> {
  container.pid = pid;
  if (container.phase === "created") {
    if (await core.handlers.existing(pod.handler)?.isStarted(container.id)) {
      container.phase = "running";
      container.startedAtNs ||= nowNs();
    } else container.unclaimed = true;
  }
  core.store.saveContainer(container);
}

async function tryAdopt(core: Core, pod: PodRecord): Promise<Monitor | undefined> {
  const deadlineMs = core.config.monitor.start_timeout_seconds * 1000;
  try {
    return await adoptMonitor(podPaths(core, pod.id).directory, deadlineMs);
  } catch (error) {
    log().warn({ podId: pod.id, error: messageOf(error) }, "no monitor to adopt");
    return undefined;
  }
}

/** Containers that were being made when the daemon ended; a monitor may still be making one. */
async function undoContainers(core: Core, pod: PodRecord): Promise<void> {
  for (const container of core.store.containersOf(pod.id)) {
    if (container.phase !== "creating") continue;
    log().warn({ containerId: container.id }, "undoing a container that was being made");
    await discardContainer(core, container);
  }
}

/** Tells at once how the containers ended, and gives the pod's resources back, until it succeeds. */
function finishInBackground(core: Core, pod: PodRecord, why: string): void {
  pod.phase = "stopping";
  core.store.savePod(pod);
  const attempt = async () => {
    try {
      const monitor = await tryAdopt(core, pod);
      if (monitor !== undefined) core.monitors.set(pod.id, monitor);
      await undoContainers(core, pod);
      await endContainers(core, pod, why);
      await stopPod(core, pod.id);
    } catch (error) {
      log().error({ podId: pod.id, error: messageOf(error) }, "stopping a pod; trying again");
      setTimeout(attempt, RETRY_MS).unref();
    }
  };
  void attempt();
}
