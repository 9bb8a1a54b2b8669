import { withDeadline } from "../monitor/deadline.ts";
import type { ContainerRecord } from "../state/records.ts";
import type { Core } from "./core.ts";

/** Somebody looks at it: better an old number than a late one. */
const ASK_MS = 1_000;

/** How much of a container's output is not in its log, so far; what a dead monitor knew is lost. */
export async function droppedLogBytesOf(core: Core, container: ContainerRecord): Promise<number> {
  const monitor = core.monitors.get(container.podId);
  if (container.phase === "exited" || monitor === undefined) {
    return Number(container.droppedLogBytes);
  }
  const known = await withDeadline(monitor.list(), ASK_MS, "pod monitor: list").catch(() => []);
  return Number(known.find(({ id }) => id === container.id)?.droppedLogBytes ?? 0n);
}
