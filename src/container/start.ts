import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { nowNs } from "../state/clock.ts";
import { requireContainer } from "../state/find.ts";
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
    container.startedAtNs = nowNs();
    try {
      const deadlineMs = core.config.runtime.create_timeout_seconds * 1000;
      await runtime.start(container.id, containerPaths(core, container.id).runtimeLog, deadlineMs);
    } catch (error) {
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
