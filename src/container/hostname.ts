import { hostname as hostHostname } from "node:os";
import type { PodSandboxConfig } from "../gen/runtime/v1/pod_sandbox_config_pb.ts";

/**
 * A pod's host name: the node's with host network; else the requested one; else the pod's own name, cut
 * to what Linux and DNS take.
 */
export function hostnameOf(
  config: Pick<PodSandboxConfig, "hostname" | "metadata">,
  hostNetwork: boolean,
): string {
  if (hostNetwork) return hostHostname();
  if (config.hostname !== "") return config.hostname;
  const name = (config.metadata?.name ?? "").replaceAll(/[^A-Za-z0-9.-]/g, "-").slice(0, 63);
  return name.replaceAll(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, "") || "pod";
}
