import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import type { OciRuntime } from "../runtime/oci-runtime.ts";
import { nowNs } from "../state/clock.ts";
import { requireContainer } from "../state/find.ts";
import type { ContainerRecord } from "../state/records.ts";
import type { Core } from "./core.ts";
import { finish } from "./exit.ts";
import { containerPaths } from "./paths.ts";

/** What a container that could not be started is reported with, as containerd does. */
const START_ERROR_EXIT_CODE = 128;

/**
 * Lets a created container go.
 *
 * @throws CribError FailedPrecondition: it is not "created"; NotFound; Internal with the runtime's
 *   message when it cannot start, the container is then exited with reason StartError.
 */
export async function startContainer(core: Core, id: string): Promise<void> {
  const container = requireContainer(core.store, id);
  await core.operations.run(`container/${container.id}`, "start", async (operation) => {
    const pod = core.store.pods.get(container.podId);
    if (container.phase !== "created" || pod?.phase !== "ready") {
      throw new CribError(
        "FailedPrecondition",
        `container ${container.id} is ${container.phase} in a pod that is ${pod?.phase ?? "gone"}: ` +
          "only a created container of a ready pod can be started",
      );
    }
    container.unclaimed = false;
    const runtime = core.handlers.existing(pod.handler);
    operation.stage(`${runtime.handler} start`);
    const isSecondTry = container.startedAtNs > 0n;
    container.startedAtNs = nowNs();
    // Before, so that one which ends while there is no daemon is known to have run, and since when.
    core.store.saveContainer(container);
    try {
      const deadlineMs = core.config.runtime.create_timeout_seconds * 1000;
      await runtime.start(container.id, containerPaths(core, container.id).runtimeLog, deadlineMs);
    } catch (error) {
      if (isSecondTry && (await hasRun(core, container, runtime))) return;
      finish(core, container, {
        exitCode: START_ERROR_EXIT_CODE,
        finishedAtNs: nowNs(),
        reason: "StartError",
        message: messageOf(error),
      });
      throw error;
    }
    // It may have run to its end meanwhile: the exit was recorded the moment it happened.
    if (container.phase === "created") container.phase = "running";
    core.store.saveContainer(container);
    log().info({ containerId: container.id, pid: container.pid }, "container started");
  });
}

/** How long the monitor may take to tell of an exit: it drains the log first. */
const REPORT_MS = 5_000;

/**
 * Whether a start that a daemon did not live to see the end of has let the container go after all: its
 * OCI runtime lives on, and wins against ours.
 */
async function hasRun(
  core: Core,
  container: ContainerRecord,
  runtime: OciRuntime,
): Promise<boolean> {
  const isStarted = await runtime.isStarted(container.id);
  // Its end may have come while the runtime was asked.
  if (isStarted && container.phase === "created") {
    container.phase = "running";
    core.store.saveContainer(container);
    return true;
  }
  return container.phase === "exited" || (await core.exits.wait(container.id, REPORT_MS));
}
