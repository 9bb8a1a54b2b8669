import type { PodSandboxConfig } from "../gen/runtime/v1/pod_sandbox_config_pb.ts";
import {
  type PodSandbox,
  PodSandboxState,
  PodSandboxStatus,
} from "../gen/runtime/v1/pod_sandbox_pb.ts";
import { NamespaceMode } from "../gen/runtime/v1/security_pb.ts";
import type { PodRecord } from "../state/records.ts";

/** CRI's state of a pod. */
export function stateOf(pod: PodRecord): PodSandboxState {
  return pod.phase === "ready" ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY;
}

/** What ListPodSandbox says of a pod. */
export function toPodSandbox(pod: PodRecord): PodSandbox {
  return {
    id: pod.id,
    metadata: pod.config.metadata,
    state: stateOf(pod),
    createdAt: pod.createdAtNs,
    labels: pod.config.labels,
    annotations: pod.config.annotations,
    runtimeHandler: pod.handler,
  };
}

type PodNotes = Pick<PodSandboxConfig, "labels" | "annotations">;

/** What PodSandboxStatus says of a pod, with all that it is labelled with: the first address is the primary one. */
export function toPodSandboxStatus(pod: PodRecord, notes: PodNotes): PodSandboxStatus {
  const [ip = "", ...additional] = pod.ips;
  const options = pod.config.linux?.securityContext?.namespaceOptions;
  return PodSandboxStatus.fromPartial({
    id: pod.id,
    metadata: pod.config.metadata,
    state: stateOf(pod),
    createdAt: pod.createdAtNs,
    network: { ip, additionalIps: additional.map((address) => ({ ip: address })) },
    linux: {
      namespaces: {
        options: {
          network: options?.network ?? NamespaceMode.POD,
          pid: options?.pid ?? NamespaceMode.POD,
          ipc: options?.ipc ?? NamespaceMode.POD,
          usernsOptions: options?.usernsOptions,
        },
      },
    },
    labels: notes.labels,
    annotations: notes.annotations,
    runtimeHandler: pod.handler,
  });
}
