import { CribError } from "../error.ts";
import type { PodSandboxConfig } from "../gen/runtime/v1/pod_sandbox_config_pb.ts";
import { NamespaceMode, type NamespaceOption } from "../gen/runtime/v1/security_pb.ts";
import type { PodRecord } from "../state/records.ts";

/**
 * Refuses a container whose client means another pod than the one that there is. What a kubelet may send
 * anew (labels, annotations, resources, DNS) does not count: RunPodSandbox's holds for the pod's life.
 *
 * @param config CreateContainer's sandbox_config; absent is fine.
 * @throws CribError InvalidArgument
 */
export function requireSamePod(pod: PodRecord, config: PodSandboxConfig | undefined): void {
  const { metadata } = config ?? {};
  const own = pod.config.metadata;
  // Not the uid: where the client's file has none, crictl makes up another one with each command.
  for (const part of ["name", "namespace", "attempt"] as const) {
    if (metadata === undefined || metadata[part] === own?.[part]) continue;
    throw differs(`metadata.${part}`, metadata[part], own?.[part]);
  }
  const options = config?.linux?.securityContext?.namespaceOptions;
  if (options === undefined) return;
  const made = pod.config.linux?.securityContext?.namespaceOptions;
  for (const kind of ["network", "pid", "ipc"] as const) {
    if (modeOf(options, kind) === modeOf(made, kind)) continue;
    const field = `linux.security_context.namespace_options.${kind}`;
    throw differs(field, NamespaceMode[options[kind]], NamespaceMode[modeOf(made, kind)]);
  }
}

function modeOf(options: NamespaceOption | undefined, kind: "network" | "pid" | "ipc") {
  return options?.[kind] ?? NamespaceMode.POD;
}

function differs(field: string, value: unknown, made: unknown): CribError {
  const text = `sandbox_config.${field}: ${JSON.stringify(value)}: the pod sandbox was made with`;
  return new CribError("InvalidArgument", `${text} ${JSON.stringify(made)}`);
}
