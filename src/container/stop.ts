import { readFileSync, readlinkSync } from "node:fs";
import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { findContainer } from "../state/find.ts";
import type { ContainerRecord } from "../state/records.ts";
import type { Core } from "./core.ts";
import { noteKill, settle } from "./exit.ts";

/** How often a process that was asked to end is looked at: has it become able to hear? */
const LOOK_AGAIN_MS = 100;
const SIGKILL = 9;

/** A stop under way; a later, more impatient call moves its deadline forward. */
interface Stop {
  deadline: number;
  done: Promise<void>;
}

const stops = new WeakMap<Core, Map<string, Stop>>();

/**
 * Stops a container: its stop signal, `timeoutSeconds` of grace, then SIGKILL; 0 kills at once.
 * Idempotent: an unknown or ended container is fine. A second call while one runs can only shorten
 * the grace.
 *
 * @throws CribError InvalidArgument: less than no time; DeadlineExceeded when it survives SIGKILL (a process
 *   in uninterruptible sleep).
 */
export async function stopContainer(core: Core, id: string, timeoutSeconds: number): Promise<void> {
  if (timeoutSeconds < 0) {
    throw new CribError("InvalidArgument", `timeout: ${timeoutSeconds} is negative`);
  }
  const container = findContainer(core.store, id);
  if (container === undefined || container.phase === "exited") return;
  const running = stops.get(core) ?? new Map<string, Stop>();
  stops.set(core, running);
  const deadline = performance.now() + timeoutSeconds * 1000;
  const known = running.get(container.id);
  if (known !== undefined) {
    known.deadline = Math.min(known.deadline, deadline);
    return known.done;
  }
  const stop: Stop = { deadline, done: Promise.resolve() };
  running.set(container.id, stop);
  stop.done = core.operations
    .run(`container/${container.id}`, "stop", async (operation) => {
      operation.stage("waiting for the stop signal to be obeyed");
      await terminate(core, container, stop);
      operation.stage("waiting for the kill");
      await kill(core, container);
    })
    .finally(() => running.delete(container.id));
  return stop.done;
}

/**
 * Sends the stop signal until a program has taken it, and waits for its end or the deadline. Just after
 * StartContainer the process is still the OCI runtime's own: what that takes, the container's program,
 * which replaces it, never hears of.
 */
async function terminate(core: Core, container: ContainerRecord, stop: Stop): Promise<void> {
  let taker: string | undefined;
  // A container that was never started has nobody to ask.
  if (container.phase !== "running") return;
  while (hasNotEnded(container) && performance.now() < stop.deadline) {
    const program = programOf(container.pid);
    if (taker === undefined || taker !== program) {
      taker = takesSignal(container.pid, container.stopSignal) ? program : undefined;
      await send(core, container, container.stopSignal);
    }
    await core.exits.wait(container.id, Math.min(LOOK_AGAIN_MS, stop.deadline - performance.now()));
  }
}

async function kill(core: Core, container: ContainerRecord): Promise<void> {
  if (!hasNotEnded(container)) return;
  await noteKill(core, container);
  await send(core, container, SIGKILL);
  const killMs = core.config.container.kill_timeout_seconds * 1000;
  await settle(core, container, "its monitor does not answer", { killMs });
}

function hasNotEnded(container: ContainerRecord): boolean {
  return container.phase !== "exited";
}

async function send(core: Core, container: ContainerRecord, signal: number): Promise<void> {
  try {
    await core.monitors.get(container.podId)?.kill(container.id, signal);
  } catch (error) {
    // It ended between our look and the signal, or the monitor is gone: the exit will tell.
    log().debug({ containerId: container.id, signal, error: messageOf(error) }, "not signalled");
  }
}

/** Which program a process runs, "" when it is gone: changes at execve. */
function programOf(pid: number): string {
  try {
    // The link, not what it leads to: that may lie on a file system that does not answer.
    return readlinkSync(`/proc/${pid}/exe`);
  } catch {
    return "";
  }
}

/**
 * Whether a signal sent now would have an effect. The kernel drops signals to the first process of a
 * PID namespace that it has no handler for: one that is still starting up would never hear of it.
 * Sending again blindly would be wrong: many programs take a second SIGTERM for "at once".
 */
function takesSignal(pid: number, signal: number): boolean {
  let status: string;
  try {
    status = readFileSync(`/proc/${pid}/status`, "utf8");
  } catch {
    return true;
  }
  const mask = (name: string) =>
    BigInt(`0x${new RegExp(`^${name}:\\s*([0-9a-f]+)`, "m").exec(status)?.[1] ?? "0"}`);
  const bit = 1n << BigInt(signal - 1);
  const isFirst = /^NSpid:.*\t1$/m.test(status);
  return !isFirst || ((mask("SigCgt") | mask("SigBlk")) & bit) !== 0n;
}
