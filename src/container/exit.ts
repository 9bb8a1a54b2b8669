import { messageOf } from "../error.ts";
import { killAll } from "../linux/cgroup.ts";
import type { ContainerExit } from "../monitor/client.ts";
import { log } from "../observe/log.ts";
import type { ContainerRecord } from "../state/records.ts";
import type { Core } from "./core.ts";

/** How long the rest of a dead container's processes may take to die of SIGKILL. */
const KILL_DEADLINE_MS = 10_000;

/** How a container ended. */
export interface Ending {
  exitCode: number;
  finishedAtNs: bigint;
  reason: string;
  message: string;
}

/** CRI's reasons, which the kubelet shows: Completed, Error, OOMKilled. */
export function endingOf(exit: ContainerExit): Ending {
  const reason = exit.oomKilled ? "OOMKilled" : exit.exitCode === 0 ? "Completed" : "Error";
  return { exitCode: exit.exitCode, finishedAtNs: exit.finishedAtNs, reason, message: "" };
}

/**
 * Records the end of a container, once, at the moment it is known; then takes away, in the
 * container's queue, what only a live container needs.
 */
export function finish(core: Core, container: ContainerRecord, ending: Ending): void {
  if (container.phase === "exited") return;
  Object.assign(container, ending, { phase: "exited" });
  try {
    core.store.saveContainer(container);
  } catch (error) {
    // Known all the same, and the monitor keeps it for a restarted daemon.
    unrecorded.add(container);
    log().error({ containerId: container.id, error: messageOf(error) }, "an exit is not recorded");
  }
  core.exits.notify(container.id);
  log().info(
    { containerId: container.id, exitCode: ending.exitCode, reason: ending.reason },
    "container exited",
  );
  void core.operations
    .run(`container/${container.id}`, "release", () => release(core, container))
    .catch((error: unknown) => {
      log().error({ containerId: container.id, error: messageOf(error) }, "release failed");
    });
}

/** Containers whose end could not be written to the database. */
const unrecorded = new WeakSet<ContainerRecord>();

/** Containers that hold nothing any more: their removal need not ask the runtime again. */
const released = new WeakSet<ContainerRecord>();

/**
 * Frees what a container that has ended still holds: stray processes (in a shared or host PID
 * namespace they survive their parent), the runtime's state, the cgroup, the mount. Idempotent.
 */
export async function release(core: Core, container: ContainerRecord): Promise<void> {
  if (released.has(container)) return;
  await killAll(core.cgroups, container.cgroup, KILL_DEADLINE_MS);
  const pod = core.store.pods.get(container.podId);
  if (pod !== undefined) await core.handlers.existing(pod.handler)?.delete(container.id);
  await core.storage.unmount(container.id);
  // Last: while the monitor knows the container, a restarted daemon finds its exit there.
  if (!unrecorded.has(container)) {
    await core.monitors
      .get(container.podId)
      ?.forget(container.id)
      .catch(() => undefined);
  }
  released.add(container);
}
