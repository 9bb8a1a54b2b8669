/** Nice values: who answers does not wait for a processor behind those who work for it. */
import { readFileSync, writeFileSync } from "node:fs";
import { getPriority, setPriority } from "node:os";
import { codeOf } from "./errno.ts";

/** Of children: what calls wait for, and what may take long. */
export type Work = "prompt" | "bulk";

const PREFERRED = -10;
const NICE: Readonly<Record<Work, number>> = { prompt: 0, bulk: 10 };
const LEAST = 19;

/** What children's values count from. */
const ordinary = getPriority();

/**
 * Prefers this process. It holds for all that it starts, up to `place`: a child that began with another
 * value would keep it waiting until the child has a processor for its execve (vfork(2)). Where somebody has
 * chosen a nice value, that one stays.
 *
 * @returns false: without CAP_SYS_NICE nothing changes.
 */
export function preferSelf(): boolean {
  if (ordinary !== 0) return true;
  try {
    setPriority(PREFERRED);
    preferSession();
    return true;
  } catch (error) {
    if (["EPERM", "EACCES"].includes(codeOf(error))) return false;
    throw error;
  }
}

/**
 * Outside of cgroups the scheduler weighs sessions against each other, and nice values only within one
 * (sched(7), autogroup). A session that another process leads is left alone: others are in it.
 */
function preferSession(): void {
  const [, , , session] = readFileSync("/proc/self/stat", "utf8")
    .replace(/^.*\) /, "")
    .split(" ");
  if (Number(session) !== process.pid) return;
  try {
    writeFileSync("/proc/self/autogroup", `${PREFERRED}`);
  } catch (error) {
    // A kernel without. EAGAIN: somebody has just set one.
    if (!["ENOENT", "EAGAIN"].includes(codeOf(error))) throw error;
  }
}

/** Gives a child that was started right now its nice value. One that is gone is fine. */
export function place(pid: number, work: Work): void {
  try {
    setPriority(pid, Math.min(LEAST, ordinary + NICE[work]));
  } catch {
    // Gone, or it keeps what it was started with: it works either way.
  }
}
