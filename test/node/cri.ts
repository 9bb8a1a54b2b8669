/** In the virtual machine: pods and containers made through CRI, as a kubelet would. */
import type { DeepPartial } from "../../src/gen/runtime/v1/common_pb.ts";
import type { ContainerConfig as ContainerConfigMessage } from "../../src/gen/runtime/v1/container_config_pb.ts";
import { ContainerState, type ContainerStatus } from "../../src/gen/runtime/v1/container_pb.ts";
import type { PodSandboxConfig } from "../../src/gen/runtime/v1/pod_sandbox_config_pb.ts";
import type { LinuxContainerResources } from "../../src/gen/runtime/v1/resources_pb.ts";
import { busybox, type Crib, until } from "./node.ts";

export type PodConfig = DeepPartial<PodSandboxConfig>;
type Resources = DeepPartial<LinuxContainerResources>;
export type ContainerConfig = DeepPartial<ContainerConfigMessage>;

export interface Pod {
  id: string;
  config: PodConfig;
}

let serial = 0;

/** The cgroup that the kubelet would make for a burstable pod, in the way of each driver. */
export function kubeletParent(driver: "systemd" | "cgroupfs", uid: string): string {
  return driver === "cgroupfs"
    ? `/kubepods/burstable/pod${uid}`
    : `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${uid}.slice`;
}

/** A pod, its containers with PID namespaces of their own. */
export async function runPod(
  crib: Crib,
  changes: PodConfig & { cgroupParent?: string; handler?: string } = {},
): Promise<Pod> {
  serial += 1;
  const { cgroupParent = "", handler = "", ...rest } = changes;
  const name = `pod${serial}`;
  const config: PodConfig = {
    metadata: { name, namespace: "default", uid: `uid${serial}`, attempt: 0 },
    logDirectory: `/var/log/pods/${name}`,
    linux: { cgroupParent, securityContext: { namespaceOptions: { pid: 1 } } },
    ...rest,
  };
  const { podSandboxId } = await crib.runtime.runPodSandbox({ config, runtimeHandler: handler });
  return { id: podSandboxId, config };
}

type ContainerChanges = Omit<ContainerConfig, "linux"> & { resources?: Resources };

/** Creates a container (one that ends at SIGTERM, unless `changes` say otherwise); its id. */
export async function create(
  crib: Crib,
  pod: Pod,
  changes: ContainerChanges = {},
): Promise<string> {
  serial += 1;
  const { resources, ...rest } = changes;
  const name = `c${serial}`;
  const { containerId } = await crib.runtime.createContainer({
    podSandboxId: pod.id,
    sandboxConfig: pod.config,
    config: {
      metadata: { name, attempt: 0 },
      image: { image: busybox },
      command: ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
      logPath: `${name}.log`,
      ...rest,
      linux: { resources, securityContext: { namespaceOptions: { pid: 1 } } },
    },
  });
  return containerId;
}

/** Creates and starts a container; its id. */
export async function run(crib: Crib, pod: Pod, changes: ContainerChanges = {}): Promise<string> {
  const containerId = await create(crib, pod, changes);
  await crib.runtime.startContainer({ containerId });
  return containerId;
}

export async function statusOf(crib: Crib, containerId: string): Promise<ContainerStatus> {
  const { status } = await crib.runtime.containerStatus({ containerId });
  if (status === undefined) throw new Error(`no status of ${containerId}`);
  return status;
}

/** Waits for the container's end. */
export function exited(crib: Crib, containerId: string): Promise<ContainerStatus> {
  return until(`exit of ${containerId}`, async () => {
    const status = await statusOf(crib, containerId);
    return status.state === ContainerState.CONTAINER_EXITED ? status : undefined;
  });
}

/** The output of a shell command in a container. */
export async function exec(crib: Crib, containerId: string, script: string): Promise<string> {
  const { stdout, stderr, exitCode } = await crib.runtime.execSync({
    containerId,
    cmd: ["sh", "-c", script],
  });
  if (exitCode !== 0) throw new Error(`${script}: ${exitCode}: ${Buffer.from(stderr)}`);
  return Buffer.from(stdout).toString().trim();
}

/** The cgroup (v2) of a process on the node. */
export async function cgroupOf(pid: number | string): Promise<string> {
  const text = await Bun.file(`/proc/${pid}/cgroup`).text();
  return text.trim().replace(/^0::/, "");
}
