/** Memory of processes, from /proc/PID/smaps_rollup (Documentation/filesystems/proc.rst of the kernel). */
import { readdirSync, readFileSync } from "node:fs";

function smaps(pid: number, field: string): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  const [, kib] = new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(text) ?? [];
  if (kib === undefined) throw new Error(`/proc/${pid}/smaps_rollup: no ${field}`);
  return Number(kib);
}

/** Proportional set size in KiB: shared pages count in part. */
export const pssKib = (pid: number) => smaps(pid, "Pss");

/** Anonymous memory in KiB. */
export const anonymousKib = (pid: number) => smaps(pid, "Anonymous");

/** Pids whose command line holds `text`, but our own. */
export function pidsWith(text: string): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && pid !== process.pid)
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(text);
      } catch {
        return false;
      }
    });
}
