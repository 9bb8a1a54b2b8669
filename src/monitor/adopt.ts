import { Monitor } from "./client.ts";

/**
 * Connects to the monitor of a pod that another daemon started. What happened in between is in
 * `list`: nothing is lost. `Unavailable` when there is none (any more): then `readExitRecords`
 * tells what it had written.
 *
 * @param directory the pod's, as in `MonitorOptions`
 * @param deadlineMs for the connection and for each short request
 */
export function adoptMonitor(directory: string, deadlineMs: number): Promise<Monitor> {
  return Monitor.connect(directory, deadlineMs);
}
