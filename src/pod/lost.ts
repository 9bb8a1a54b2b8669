import type { Core } from "../container/core.ts";
import { endingOf, finish } from "../container/exit.ts";
import { podPaths } from "../container/paths.ts";
import { messageOf } from "../error.ts";
import { killAll } from "../linux/cgroup.ts";
import { readExitRecords } from "../monitor/exits.ts";
import { log } from "../observe/log.ts";
import { nowNs } from "../state/clock.ts";
import type { PodRecord } from "../state/records.ts";
import { stopPod } from "./stop.ts";

const KILL_DEADLINE_MS = 10_000;
/** 128 + SIGKILL. */
const KILLED = 137;

/**
 * A pod whose monitor is gone. Its containers' output has no reader any more and their exits no
 * witness, so nothing true could be said of them: what the monitor had recorded is taken over, what
 * still runs is killed and says so, and the pod is stopped, for the kubelet to make it anew.
 */
export async function lost(core: Core, pod: PodRecord): Promise<void> {
  if (!core.store.pods.has(pod.id) || pod.phase !== "ready") return;
  log().error({ podId: pod.id, monitorPid: pod.monitorPid }, "the pod's monitor is gone");
  try {
    await endContainers(core, pod, "its pod's monitor died");
    await stopPod(core, pod.id);
  } catch (error) {
    log().error({ podId: pod.id, error: messageOf(error) }, "ending a pod without monitor");
  }
}

/** Gives every container of the pod that has not ended its end: the recorded one, or the kill. */
export async function endContainers(core: Core, pod: PodRecord, why: string): Promise<void> {
  const records = await readExitRecords(podPaths(core, pod.id).directory).catch(() => []);
  const exits = new Map(records.map((exit) => [exit.id, exit]));
  await Promise.all(
    core.store.containersOf(pod.id).map(async (container) => {
      if (container.phase === "exited" || container.phase === "creating") return;
      const exit = exits.get(container.id);
      if (exit !== undefined) {
        finish(core, container, endingOf(exit));
        return;
      }
      await killAll(core.cgroups, container.cgroup, KILL_DEADLINE_MS);
      finish(core, container, {
        exitCode: KILLED,
        finishedAtNs: nowNs(),
        reason: "Error",
        message: `killed by Crib: ${why}`,
      });
    }),
  );
}
