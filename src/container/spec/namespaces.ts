import { NamespaceMode, type NamespaceOption } from "../../gen/runtime/v1/security_pb.ts";
import type { SpecPod } from "./input.ts";
import type { OciNamespace } from "./oci.ts";
import { impossible, invalid, unsupported } from "./refuse.ts";

export interface NamespaceRequest {
  pod: Pick<SpecPod, "config" | "namespaces">;
  /** `linux.security_context.namespace_options` of the container. */
  options: NamespaceOption | undefined;
  targetPidNamespace: string | undefined;
  /** A cgroup namespace of its own (cgroup v2, not privileged; KEP-2254). */
  privateCgroup: boolean;
}

const FIELD = "linux.security_context.namespace_options";

/**
 * The namespaces of a container. POD is "the pod's", which is the host's where the pod asked for NODE;
 * NODE is refused where the pod has a namespace of its own.
 */
export function buildNamespaces(request: NamespaceRequest): OciNamespace[] {
  const { pod, options } = request;
  checkUserNamespace(options, FIELD);
  const podOptions = pod.config.linux?.securityContext?.namespaceOptions;
  const namespaces: OciNamespace[] = [{ type: "mount" }];

  const network = options?.network ?? NamespaceMode.POD;
  const ipc = options?.ipc ?? NamespaceMode.POD;
  namespaces.push(...podNamespace("network", network, pod.namespaces.net));
  namespaces.push(...podNamespace("ipc", ipc, pod.namespaces.ipc));
  if (pod.namespaces.uts !== undefined) {
    namespaces.push({ type: "uts", path: pod.namespaces.uts });
  }
  namespaces.push(...pidNamespace(request, podOptions?.pid ?? NamespaceMode.POD));
  if (request.privateCgroup) namespaces.push({ type: "cgroup" });
  return namespaces;
}

/** User namespaces: only the host's, by NODE or by saying nothing. For pods and containers. */
export function checkUserNamespace(options: NamespaceOption | undefined, field: string): void {
  const user = options?.usernsOptions;
  if (user === undefined || user.mode === NamespaceMode.NODE) {
    if (user !== undefined && user.uids.length + user.gids.length > 0) {
      throw invalid(`${field}.userns_options`, "NODE", "takes no uid or gid mappings");
    }
    return;
  }
  const name: string | undefined = NamespaceMode[user.mode];
  if (user.mode !== NamespaceMode.POD) {
    throw invalid(`${field}.userns_options.mode`, name ?? user.mode, "must be POD or NODE");
  }
  throw unsupported(`${field}.userns_options.mode`, name, "Crib has no user namespaces yet");
}

function podNamespace(
  type: "network" | "ipc",
  mode: NamespaceMode,
  pin: string | undefined,
): OciNamespace[] {
  const field = `${FIELD}.${type}`;
  switch (mode) {
    case NamespaceMode.POD:
      return pin === undefined ? [] : [{ type, path: pin }];
    case NamespaceMode.NODE:
      if (pin !== undefined) throw invalid(field, "NODE", "the pod has a namespace of its own");
      return [];
    case NamespaceMode.CONTAINER:
      throw unsupported(field, "CONTAINER", "containers share this namespace with their pod");
    case NamespaceMode.TARGET:
      throw invalid(field, "TARGET", "only the PID namespace can be another container's");
    default:
      throw invalid(field, mode, "is not a namespace mode");
  }
}

function pidNamespace(request: NamespaceRequest, podMode: NamespaceMode): OciNamespace[] {
  const { options, pod, targetPidNamespace } = request;
  const mode = options?.pid ?? NamespaceMode.POD;
  const field = `${FIELD}.pid`;
  const target = options?.targetId ?? "";
  if (target !== "" && mode !== NamespaceMode.TARGET) {
    throw invalid(`${FIELD}.target_id`, target, "is only for pid TARGET");
  }
  switch (mode) {
    case NamespaceMode.POD:
      if (pod.namespaces.pid !== undefined) return [{ type: "pid", path: pod.namespaces.pid }];
      if (podMode === NamespaceMode.NODE) return [];
      throw invalid(field, "POD", "the pod was made without a shared PID namespace");
    case NamespaceMode.CONTAINER:
      return [{ type: "pid" }];
    case NamespaceMode.NODE:
      if (podMode !== NamespaceMode.NODE) {
        throw invalid(field, "NODE", "the pod was not made with the host's PID namespace");
      }
      return [];
    case NamespaceMode.TARGET:
      if (target === "") throw invalid(`${FIELD}.target_id`, "", "pid TARGET needs a container id");
      if (targetPidNamespace === undefined) {
        throw impossible(`${FIELD}.target_id`, target, "is not a running container of this pod");
      }
      return [{ type: "pid", path: targetPidNamespace }];
    default:
      throw invalid(field, mode, "is not a namespace mode");
  }
}
