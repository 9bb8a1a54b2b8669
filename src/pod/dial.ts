import type { Core } from "../container/core.ts";
import { CribError } from "../error.ts";
import type { StreamSocket } from "../monitor/stream-socket.ts";
import { requirePod } from "../state/find.ts";

/** Nothing but the pod's own programs is asked: they answer, or are stuck. */
const DIAL_DEADLINE_MS = 10_000;

/**
 * Connects to a port of localhost in the pod's network namespace, IPv4, else IPv6. Half-open: `end()`
 * leaves what the port still says to be read. A port that breaks it off destroys it with an error.
 *
 * @throws CribError InvalidArgument, NotFound, FailedPrecondition (not ready, or the port refuses),
 *   DeadlineExceeded, ResourceExhausted, Unimplemented (an old pod).
 */
export async function dial(core: Core, podSandboxId: string, port: number): Promise<StreamSocket> {
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new CribError("InvalidArgument", `port: ${port} is not one of 1 to 65535`);
  }
  const pod = requirePod(core.store, podSandboxId);
  const monitor = core.monitors.get(pod.id);
  if (pod.phase !== "ready" || monitor === undefined) {
    throw new CribError("FailedPrecondition", `pod sandbox ${pod.id} is ${pod.phase}, not ready`);
  }
  return monitor.dial(port, DIAL_DEADLINE_MS);
}
