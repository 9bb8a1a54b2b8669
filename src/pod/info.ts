/** What `crictl inspectp` shows beside the status, under the names that agents know from the peers. */
import { configJson } from "../container/config-json.ts";
import type { Core } from "../container/core.ts";
import { hostnameOf } from "../container/hostname.ts";
import { containerPaths, lentPaths, podPaths } from "../container/paths.ts";
import type { PodSandboxConfig } from "../gen/runtime/v1/pod_sandbox_config_pb.ts";
import type { NetworkResult } from "../network/network.ts";
import type { PodRecord } from "../state/records.ts";

/** OCI's names of the namespaces that a pod has. */
const NAMESPACES = { net: "network", ipc: "ipc", uts: "uts", pid: "pid" } as const;

type WholePod = Omit<PodRecord, "config"> & { config: PodSandboxConfig };

/**
 * A pod: `pid`, `runtimeSpec` as with both peers; `config`, `cniResult`, `processStatus`,
 * `netNamespaceClosed`, `runtimeHandler` as with containerd. The process is the pod's monitor, which is in
 * the pod's network.
 */
export function podInfo(core: Core, pod: PodRecord): object {
  const config = core.store.podConfig(pod.id);
  const network = pod.ips.length === 0 ? undefined : core.network.result(pod.id);
  const isReady = pod.phase === "ready";
  return {
    pid: pod.phase === "stopped" ? 0 : pod.monitorPid,
    processStatus: isReady ? "running" : "deleted",
    netNamespaceClosed: pod.namespaces.net !== undefined && pod.phase === "stopped",
    runtimeHandler: pod.handler,
    runtimeType: pod.handler,
    handler: pod.handler,
    cgroup: pod.cgroup,
    namespaces: pod.namespaces,
    directory: podPaths(core, pod.id).directory,
    cniResult: network === undefined ? null : cniResult(network),
    network: network?.raw ?? null,
    containers: core.store
      .containersOf(pod.id)
      .map(({ id }) => ({ id, bundle: containerPaths(core, id).bundle })),
    config: configJson(config),
    runtimeSpec: runtimeSpec(core, { ...pod, config }, network),
  };
}

/** As containerd's go-cni has it: interfaces by name. */
function cniResult({ interfaces, ips }: NetworkResult) {
  const entries = interfaces.map(({ name, mac, sandbox }) => {
    const isPods = sandbox !== "";
    return [
      name,
      { IPConfigs: isPods ? ips.map((IP) => ({ IP })) : null, Mac: mac, Sandbox: sandbox },
    ];
  });
  return { Interfaces: Object.fromEntries(entries) as Record<string, unknown> };
}

/**
 * A pod has no process of an OCI runtime: this is what such a one would have been given, for those who
 * look for the pod's namespaces, cgroup and annotations there.
 */
function runtimeSpec(core: Core, pod: WholePod, network: NetworkResult | undefined) {
  const { config, namespaces } = pod;
  const types = Object.entries(NAMESPACES) as Array<[keyof typeof NAMESPACES, string]>;
  return {
    ociVersion: "1.0.2",
    hostname: hostnameOf(config, namespaces.net === undefined),
    annotations: { ...config.annotations, ...annotations(core, pod, network) },
    linux: {
      namespaces: types.flatMap(([kind, type]) => {
        const path = namespaces[kind];
        return path === undefined ? [] : [{ type, path }];
      }),
      cgroupsPath: pod.cgroup,
      sysctl: config.linux?.sysctls ?? {},
    },
  };
}

function annotations(core: Core, pod: WholePod, network: NetworkResult | undefined) {
  const { config, id } = pod;
  const { name = "", namespace = "", uid = "" } = config.metadata ?? {};
  const { resolvConf, hostname, shm } = lentPaths(core, id);
  const hostNetwork = pod.namespaces.net === undefined;
  const crio = {
    ContainerType: "sandbox",
    ContainerID: id,
    SandboxID: id,
    SandboxName: name,
    KubeName: name,
    Namespace: namespace,
    HostName: hostnameOf(config, hostNetwork),
    HostNetwork: String(hostNetwork),
    CgroupParent: config.linux?.cgroupParent ?? "",
    LogPath: config.logDirectory,
    ResolvPath: resolvConf,
    HostnamePath: hostname,
    ShmPath: pod.namespaces.ipc === undefined ? "/dev/shm" : shm,
    RuntimeHandler: pod.handler,
    ...(network !== undefined && { CNIResult: JSON.stringify(network.raw) }),
    ...Object.fromEntries(pod.ips.map((ip, index) => [`IP.${index}`, ip])),
  };
  const containerd = {
    "container-type": "sandbox",
    "sandbox-id": id,
    "sandbox-name": name,
    "sandbox-namespace": namespace,
    "sandbox-uid": uid,
    "sandbox-log-directory": config.logDirectory,
  };
  const prefixed = (prefix: string, values: Record<string, string>) =>
    Object.entries(values).map(([key, value]) => [prefix + key, value]);
  return Object.fromEntries([
    ...prefixed("io.kubernetes.cri.", containerd),
    ...prefixed("io.kubernetes.cri-o.", crio),
  ]) as Record<string, string>;
}
