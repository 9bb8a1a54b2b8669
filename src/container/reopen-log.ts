import { CribError } from "../error.ts";
import { requireContainer } from "../state/find.ts";
import type { Core } from "./core.ts";

/**
 * Makes the monitor write to a new file at the container's log path, after the old one was renamed.
 * Enters no queue: a container that takes its time to stop cannot hold it up.
 *
 * @throws CribError NotFound; FailedPrecondition: not running, so nobody writes.
 */
export async function reopenContainerLog(core: Core, id: string): Promise<void> {
  const container = requireContainer(core.store, id);
  const monitor = core.monitors.get(container.podId);
  if (container.phase !== "running" || monitor === undefined) {
    throw new CribError(
      "FailedPrecondition",
      `container ${container.id} is ${container.phase}, not running: its log is not being written`,
    );
  }
  if (container.logPath !== "") await monitor.reopenLog(container.id);
}
