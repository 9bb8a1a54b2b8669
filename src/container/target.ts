/** NamespaceMode TARGET (KEP-277): a container in the PID namespace of another one of its pod. */
import { writeFileSync } from "node:fs";
import { CribError, messageOf } from "../error.ts";
import { NamespaceMode } from "../gen/runtime/v1/security_pb.ts";
import { MountFlag, mount } from "../linux/mount.ts";
import { requireContainer } from "../state/find.ts";
import type { ContainerRecord, PodRecord } from "../state/records.ts";
import type { Core } from "./core.ts";
import { containerPaths } from "./paths.ts";
import { inState } from "./room.ts";

/** The running container of the same pod whose PID namespace this one asks for; undefined: none. */
function targetOf(
  core: Core,
  pod: PodRecord,
  { config }: ContainerRecord,
): ContainerRecord | undefined {
  const options = config.linux?.securityContext?.namespaceOptions;
  if (options?.pid !== NamespaceMode.TARGET) return undefined;
  const target = requireContainer(core.store, options.targetId);
  if (target.podId !== pod.id || target.phase !== "running") {
    throw gone(target, "is not running in this pod");
  }
  return target;
}

function gone({ id }: ContainerRecord, why: string): CribError {
  return new CribError("FailedPrecondition", `namespace_options.target_id: container ${id} ${why}`);
}

/**
 * Pins the PID namespace of the container that `record` names as its target: what a path with a process's
 * number leads to, when the OCI runtime opens it, may be another process's, or the host's.
 *
 * @returns where it is pinned, until `unpinTarget`; undefined: there is no target.
 * @throws CribError NotFound, FailedPrecondition: it does not run in this pod (any more).
 */
export async function pinTarget(
  core: Core,
  pod: PodRecord,
  record: ContainerRecord,
): Promise<string | undefined> {
  const target = targetOf(core, pod, record);
  if (target === undefined) return undefined;
  const { targetPin } = containerPaths(core, record.id);
  await inState(core, () => writeFileSync(targetPin, "", { mode: 0o600 }));
  try {
    mount({ source: `/proc/${target.pid}/ns/pid`, target: targetPin, flags: MountFlag.bind });
  } catch (error) {
    throw gone(target, `cannot be joined: ${messageOf(error)}`);
  }
  // While its parent has not reaped it nobody else has its number: so it was its own, a moment ago.
  if (!(await isAlive(core, target))) throw gone(target, "has ended");
  return targetPin;
}

/** Whether its monitor, the parent of its first process, has not reaped that. */
async function isAlive(core: Core, { id, podId }: ContainerRecord): Promise<boolean> {
  const monitor = core.monitors.get(podId);
  return (
    monitor !== undefined &&
    (await monitor.kill(id, 0).then(
      () => true,
      () => false,
    ))
  );
}

/** Of a creation that has failed: the error, or that the target's end is why. */
export async function explainTarget(
  core: Core,
  pod: PodRecord,
  record: ContainerRecord,
  error: unknown,
): Promise<unknown> {
  let target: ContainerRecord | undefined;
  try {
    target = targetOf(core, pod, record);
  } catch (cause) {
    return cause;
  }
  if (target === undefined || (await isAlive(core, target))) return error;
  return gone(target, `has ended: ${messageOf(error)}`);
}

/** Idempotent. A container that is made needs its pin no more. */
export function unpinTarget(core: Core, id: string): Promise<void> {
  return core.unmount([containerPaths(core, id).targetPin], { lazy: true });
}
