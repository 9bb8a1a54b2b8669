import type { Core } from "../container/core.ts";
import { type Ending, finish, settle } from "../container/exit.ts";
import { log } from "../observe/log.ts";
import { nowNs } from "../state/clock.ts";
import type { PodRecord } from "../state/records.ts";
import { untilDone } from "./retry.ts";
import { markStopping, stopPod } from "./stop.ts";

/**
 * Ends a pod that cannot go on, for the kubelet to make it anew. Without a monitor its containers'
 * output has no reader and their exits have no witness, so nothing true could be said of them: what the
 * monitor had recorded is taken over, and what still runs is killed and says so. Without the first
 * process of its PID namespace no process can be started; the monitor tells how the others end.
 */
export async function endPod(core: Core, pod: PodRecord, why: string): Promise<void> {
  if (!core.store.pods.has(pod.id) || pod.phase === "creating" || pod.phase === "stopped") return;
  log().error({ podId: pod.id, why }, "ending a pod that cannot go on");
  markStopping(core, pod);
  const options = core.monitors.has(pod.id) ? {} : { reportMs: 0 };
  await untilDone(pod.id, "ending", async () => {
    const ends = core.store
      .containersOf(pod.id)
      .filter(({ phase }) => phase === "created" || phase === "running")
      .map((container) => settle(core, container, why, options));
    await Promise.all(ends);
    await stopPod(core, pod.id);
  });
}

/** What is said of containers that were cut off with the node: as the peers say it. */
const CUT_OFF: Omit<Ending, "finishedAtNs"> = {
  exitCode: 255,
  reason: "Unknown",
  message: "the node was restarted",
};

/** Ends a pod of before a reboot: nothing of it runs, but the network wants its addresses back. */
export function endPodOfBefore(core: Core, pod: PodRecord): void {
  markStopping(core, pod);
  for (const container of core.store.containersOf(pod.id)) {
    if (container.phase === "creating") continue;
    finish(core, container, { ...CUT_OFF, finishedAtNs: nowNs() });
  }
  void untilDone(pod.id, "ending", () => stopPod(core, pod.id));
}
