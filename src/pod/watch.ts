import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Core } from "../container/core.ts";
import { endingOf, finish, finishSoon, releaseLater } from "../container/exit.ts";
import { podPaths } from "../container/paths.ts";
import { CribError, messageOf } from "../error.ts";
import { codeOf } from "../linux/errno.ts";
import { adoptMonitor } from "../monitor/adopt.ts";
import type { Monitor } from "../monitor/client.ts";
import type { ContainerExit } from "../monitor/types.ts";
import { log, withoutRequest } from "../observe/log.ts";
import { nowNs } from "../state/clock.ts";
import type { ContainerRecord, PodRecord } from "../state/records.ts";
import { endPod } from "./lost.ts";
import { untilDone } from "./retry.ts";

const UNKNOWN_EXIT_CODE = 255;

/** From now on exits are recorded, and the monitor's own death is noticed. */
export function watchMonitor(core: Core, pod: PodRecord, monitor: Monitor): void {
  pod.monitorPid = monitor.pid;
  core.monitors.set(pod.id, monitor);
  monitor.onExit((exit) => withoutRequest({ podId: pod.id }, () => recordExit(core, exit)));
  void monitor.pauseEnded.then(() => {
    if (pod.namespaces.pid === undefined || core.monitors.get(pod.id) !== monitor) return;
    // Nothing can be started in it any more, and only a new pod has a new one.
    void withoutRequest({ podId: pod.id }, () =>
      endPod(core, pod, "its pod's PID namespace ended"),
    );
  });
  void monitor.closed.then(() => {
    if (core.monitors.get(pod.id) !== monitor) return;
    core.monitors.delete(pod.id);
    void withoutRequest({ podId: pod.id }, () => adoptPod(core, pod));
  });
}

/** An exit while its container is still being made waits for that: the queue keeps the order. */
function recordExit(core: Core, exit: ContainerExit): void {
  const record = () => finishSoon(core, exit.id, endingOf(exit));
  if (core.store.containers.get(exit.id)?.phase !== "creating") record();
  else void core.operations.run(`container/${exit.id}`, "exit", async () => record());
}

/**
 * Connects to the monitor of a pod that should have one: after a start of the daemon, or when the
 * connection broke. Only a monitor that is certainly dead ends its pod; one that does not answer is
 * asked again, while its containers go on.
 *
 * @returns when the first try has ended.
 */
export function adoptPod(core: Core, pod: PodRecord): Promise<void> {
  return untilDone(pod.id, "adopting", async () => {
    if (core.monitors.has(pod.id) || !core.store.pods.has(pod.id)) return;
    const monitor = await connectMonitor(core, pod);
    if (monitor === undefined) {
      void endPod(core, pod, whyGone(core, pod));
      return;
    }
    watchMonitor(core, pod, monitor);
    await reconcile(core, pod, monitor);
  });
}

/** A monitor that lost its socket may live, but nobody can ever speak to it again. */
function whyGone(core: Core, pod: PodRecord): string {
  const socket = join(podPaths(core, pod.id).directory, "monitor.sock");
  return existsSync(socket)
    ? "its pod's monitor died"
    : "the socket of its pod's monitor was removed";
}

/**
 * The pod's monitor; undefined when it is dead, or has lost its socket.
 *
 * @throws CribError when it lives, or may live, and does not answer.
 */
export async function connectMonitor(core: Core, pod: PodRecord): Promise<Monitor | undefined> {
  const { directory } = podPaths(core, pod.id);
  const deadlineMs = core.config.monitor.start_timeout_seconds * 1000;
  try {
    return await adoptMonitor(directory, deadlineMs);
  } catch (error) {
    log().warn({ podId: pod.id, error: messageOf(error) }, "no answer from the pod's monitor");
    if (!existsSync(directory) || isRefused(error)) return undefined;
    throw error;
  }
}

/** Nobody listens on its socket, or there is none: a monitor that lives always does. */
function isRefused(error: unknown): boolean {
  const cause = error instanceof CribError ? error.cause : undefined;
  const code = codeOf(cause);
  return code === "ENOENT" || code === "ECONNREFUSED";
}

/** Brings the pod's containers in line with what the monitor knows; each for itself. */
async function reconcile(core: Core, pod: PodRecord, monitor: Monitor): Promise<void> {
  const known = new Map((await monitor.list()).map((entry) => [entry.id, entry]));
  for (const container of core.store.containersOf(pod.id)) {
    if (container.phase === "creating") continue;
    const entry = known.get(container.id);
    if (container.phase === "exited") {
      // Forgetting it is the last thing that a release does: this one was not finished.
      if (entry !== undefined) releaseLater(core, container);
    } else if (entry?.exit !== undefined) {
      finish(core, container, endingOf(entry.exit));
    } else if (entry === undefined) {
      finish(core, container, {
        exitCode: UNKNOWN_EXIT_CODE,
        finishedAtNs: nowNs(),
        reason: "Unknown",
        message: "the pod's monitor does not know this container",
      });
    } else await adoptContainer(core, pod, container, entry.pid);
  }
}

/** A container that lives. The daemon may have ended between starting it and writing that down. */
async function adoptContainer(
  core: Core,
  pod: PodRecord,
  container: ContainerRecord,
  pid: number,
): Promise<void> {
  container.pid = pid;
  if (container.phase !== "created") return;
  const started = await core.handlers.find(pod.handler)?.isStarted(container.id);
  // Its end may have come while the runtime was asked.
  if (container.phase !== "created") return;
  if (started) {
    container.phase = "running";
    container.startedAtNs ||= nowNs();
  } else container.unclaimed = true;
  core.store.saveContainer(container);
}
