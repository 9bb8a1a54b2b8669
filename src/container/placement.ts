import { CribError } from "../error.ts";
import type { PodSandboxConfig } from "../gen/runtime/v1/pod_sandbox_config_pb.ts";
import { type CgroupPlacement, placeCgroup } from "../linux/systemd.ts";
import type { Core } from "./core.ts";

/**
 * Where the cgroup of a pod or of one of its containers is: below the pod's cgroup parent, or below
 * `runtime.cgroup_parent` when the pod names none.
 *
 * @throws CribError InvalidArgument: the parent does not fit the cgroup driver.
 */
export function placementOf(
  core: Pick<Core, "config" | "cgroupDriver">,
  pod: Pick<PodSandboxConfig, "linux">,
  id: string,
): CgroupPlacement {
  const asked = pod.linux?.cgroupParent ?? "";
  const field = asked === "" ? "runtime.cgroup_parent" : "config.linux.cgroup_parent";
  return place(core, field, asked || core.config.runtime.cgroup_parent, id);
}

function place(
  { cgroupDriver }: Pick<Core, "cgroupDriver">,
  field: string,
  parent: string,
  id: string,
): CgroupPlacement {
  try {
    return placeCgroup(cgroupDriver, parent, id);
  } catch (error) {
    if (!(error instanceof CribError)) throw error;
    throw new CribError(error.code, `${field}: ${error.message}`, { cause: error });
  }
}

/**
 * Where a pod's own cgroup is, with its monitor and its pause: beside its containers', or below
 * `monitor.cgroup_parent`.
 *
 * @throws CribError InvalidArgument: the parent does not fit the cgroup driver.
 */
export function monitorPlacementOf(
  core: Pick<Core, "config" | "cgroupDriver">,
  pod: PodSandboxConfig,
  podId: string,
): CgroupPlacement {
  const parent = core.config.monitor.cgroup_parent;
  if (parent === "") return placementOf(core, pod, podId);
  return place(core, "monitor.cgroup_parent", parent, podId);
}
