import { messageOf } from "../error.ts";
import { NamespaceMode } from "../gen/runtime/v1/security_pb.ts";
import { killAll, processes } from "../linux/cgroup.ts";
import { readExitRecords } from "../monitor/exits.ts";
import type { ContainerExit } from "../monitor/types.ts";
import { log, withoutRequest } from "../observe/log.ts";
import { nowNs } from "../state/clock.ts";
import type { ContainerRecord } from "../state/records.ts";
import type { Core } from "./core.ts";
import { podPaths } from "./paths.ts";

/** How long the rest of a dead container's processes may take to die of SIGKILL. */
const KILL_DEADLINE_MS = 10_000;

/** How a container ended. */
export interface Ending {
  exitCode: number;
  finishedAtNs: bigint;
  reason: string;
  message: string;
  /** Bytes of output that are not in the log; absent where nobody counted. */
  droppedLogBytes?: bigint;
}

/** CRI's reasons, which the kubelet shows: Completed, Error, OOMKilled. */
export function endingOf(exit: ContainerExit): Ending {
  const reason = exit.oomKilled ? "OOMKilled" : exit.exitCode === 0 ? "Completed" : "Error";
  const { exitCode, finishedAtNs, droppedLogBytes } = exit;
  const isCut = exit.logComplete === false;
  const message = isCut ? "its monitor died: the last lines of its log may be missing" : "";
  return { exitCode, finishedAtNs, reason, message, droppedLogBytes };
}

/**
 * Records the end of a container, once, at the moment it is known; then takes away, in the
 * container's queue, what only a live container needs.
 */
export function finish(core: Core, container: ContainerRecord, ending: Ending): void {
  if (container.phase === "exited") return;
  Object.assign(container, ending, { phase: "exited" });
  record(core, [container]);
  tell(core, container);
}

/** Ends that have come in this turn of the event loop, by the container's id. */
const ends = new WeakMap<Core, Map<string, Ending>>();

/**
 * As `finish`, with all ends that come in the same turn of the event loop: a storm of them waits for the
 * disk once. Nobody is told before that.
 */
export function finishSoon(core: Core, id: string, ending: Ending): void {
  const known = ends.get(core);
  if (known !== undefined) {
    known.set(id, ending);
    return;
  }
  const first = new Map([[id, ending]]);
  ends.set(core, first);
  setImmediate(() => {
    ends.delete(core);
    finishAll(core, first);
  });
}

function finishAll(core: Core, endings: ReadonlyMap<string, Ending>): void {
  const ended = [...endings].flatMap(([id, ending]) => {
    const container = core.store.containers.get(id);
    if (container === undefined || container.phase === "exited") return [];
    return [Object.assign(container, ending, { phase: "exited" as const })];
  });
  record(core, ended);
  for (const container of ended) {
    withoutRequest({ podId: container.podId }, () => tell(core, container));
  }
}

function record(core: Core, ended: readonly ContainerRecord[]): void {
  try {
    core.store.saveContainers(ended);
    return;
  } catch (error) {
    if (ended.length > 1) {
      // Together they have failed: as many as can be alone.
      for (const container of ended) record(core, [container]);
      return;
    }
    for (const container of ended) {
      // Known all the same, and the monitor keeps it for a restarted daemon.
      unrecorded.add(container);
      const fields = { containerId: container.id, error: messageOf(error) };
      log().error(fields, "an exit is not recorded");
    }
  }
}

function tell(core: Core, container: ContainerRecord): void {
  const { id: containerId, exitCode, reason } = container;
  core.exits.notify(containerId);
  log().info({ containerId, exitCode, reason }, "container exited");
  const droppedLogBytes = Number(container.droppedLogBytes);
  if (droppedLogBytes > 0) {
    log().warn({ containerId, droppedLogBytes }, "output is missing in its log");
  }
  releaseLater(core, container);
}

/** Releases a container in its queue. What fails is tried again when its pod stops or it is removed. */
export function releaseLater(core: Core, container: ContainerRecord): void {
  void core.operations
    .run(`container/${container.id}`, "release", () => release(core, container))
    .catch((error: unknown) => {
      log().error({ containerId: container.id, error: messageOf(error) }, "release failed");
    });
}

/** How long a monitor may take to report an exit after the last process has gone: it drains the log. */
const REPORT_MS = 5_000;
/** 128 + SIGKILL. */
const KILLED = 137;
/** What containerd says of an end that nobody saw. */
const UNKNOWN = 255;

/** Containers that were alive when Crib was about to kill them. */
const doomed = new WeakSet<ContainerRecord>();

/** To be called before a container is killed: should nobody see its end, this was its cause. */
export async function noteKill(core: Core, container: ContainerRecord): Promise<void> {
  const alive = await processes(core.cgroups, container.cgroup);
  if (alive.includes(container.pid)) doomed.add(container);
}

/** An end of which neither the monitor nor its record tells. */
function unwitnessed(core: Core, container: ContainerRecord, why: string): Ending {
  const killed = { exitCode: KILLED, finishedAtNs: nowNs(), reason: "Error" };
  if (doomed.has(container)) return { ...killed, message: `killed by Crib: ${why}` };
  const options = container.config.linux?.securityContext?.namespaceOptions;
  const pidMode = options?.pid ?? NamespaceMode.POD;
  const namespaces = core.store.pods.get(container.podId)?.namespaces;
  // It lived as long as the monitor: had it ended before, there would be a record.
  if (namespaces?.pid !== undefined && pidMode === NamespaceMode.POD) {
    return { ...killed, message: `killed with the PID namespace that it shared: ${why}` };
  }
  const message = `nobody saw how it ended: ${why}`;
  return { exitCode: UNKNOWN, finishedAtNs: nowNs(), reason: "Unknown", message };
}

/**
 * Brings a container to its end, whoever is left to tell of it: kills what is in its cgroup, then takes
 * the monitor's report, else the record on disk, else what was found in the cgroup.
 *
 * @param why nobody else may tell: "its pod's monitor died"
 * @param reportMs how long the report of a monitor is awaited; 0 where there is none.
 * @throws CribError DeadlineExceeded when processes survive SIGKILL for `killMs`.
 */
export async function settle(
  core: Core,
  container: ContainerRecord,
  why: string,
  { killMs = KILL_DEADLINE_MS, reportMs = REPORT_MS } = {},
): Promise<void> {
  const reported = reportMs > 0 ? core.exits.wait(container.id, killMs + reportMs) : undefined;
  await noteKill(core, container);
  await killAll(core.cgroups, container.cgroup, killMs);
  if (container.phase === "exited") return;
  if (reported !== undefined) await Promise.race([reported, Bun.sleep(reportMs)]);
  if (container.phase !== "running" && container.phase !== "created") return;
  const records = await readExitRecords(podPaths(core, container.podId).directory).catch(() => []);
  const record = records.find(({ id }) => id === container.id);
  finish(core, container, record ? endingOf(record) : unwitnessed(core, container, why));
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
  if (pod !== undefined) await core.handlers.find(pod.handler)?.delete(container.id);
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
