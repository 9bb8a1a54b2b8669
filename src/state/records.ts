import type { KeptContainerConfig, KeptPodConfig } from "./kept-config.ts";

/**
 * A pod's way: creating → ready → stopping → stopped → (removed: no row). Only "ready" is CRI's
 * SANDBOX_READY; a pod that is "creating" is not listed.
 */
export type PodPhase = "creating" | "ready" | "stopping" | "stopped";

/** A container's way: creating → created → running → exited → (removed: no row). */
export type ContainerPhase = "creating" | "created" | "running" | "exited";

/** Paths at which a pod's own namespaces are pinned; a namespace that is the host's has none. */
export interface NamespacePins {
  net?: string;
  ipc?: string;
  uts?: string;
  pid?: string;
}

/** What Crib knows of a pod sandbox. Times are nanoseconds since 1970. */
export interface PodRecord {
  readonly id: string;
  readonly config: KeptPodConfig;
  readonly handler: string;
  readonly createdAtNs: bigint;
  readonly namespaces: NamespacePins;
  /** The pod's own cgroup, which holds the monitor. */
  readonly cgroup: string;
  phase: PodPhase;
  ips: string[];
  monitorPid: number;
  /** The creator's connection ended before it got the answer: the next same request takes this pod. */
  unclaimed: boolean;
}

/** What Crib knows of a container. Times are nanoseconds since 1970, 0 where it has not happened. */
export interface ContainerRecord {
  readonly id: string;
  readonly podId: string;
  readonly config: KeptContainerConfig;
  /** The image's id, and what the client called it. */
  readonly imageId: string;
  readonly imageRef: string;
  readonly createdAtNs: bigint;
  readonly cgroup: string;
  /** Absolute path of the CRI log; "" when nothing is logged. */
  readonly logPath: string;
  /** The layers under the writable one, base first. */
  readonly layers: readonly string[];
  readonly stopSignal: number;
  phase: ContainerPhase;
  user: { uid: number; gid: number; supplementalGroups: number[] };
  pid: number;
  startedAtNs: bigint;
  finishedAtNs: bigint;
  exitCode: number;
  reason: string;
  message: string;
  /** Bytes of output that are not in the log: known when the container has ended. */
  droppedLogBytes: bigint;
  unclaimed: boolean;
}
