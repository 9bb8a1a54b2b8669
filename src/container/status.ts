import type { DeepPartial } from "../gen/runtime/v1/common_pb.ts";
import { Signal } from "../gen/runtime/v1/container_config_pb.ts";
import { type Container, ContainerState, ContainerStatus } from "../gen/runtime/v1/container_pb.ts";
import type { Image } from "../image/images.ts";
import type { ContainerPhase, ContainerRecord } from "../state/records.ts";
import type { Core } from "./core.ts";
import { stopSignal } from "./spec/signal.ts";

const STATES: Readonly<Record<ContainerPhase, ContainerState>> = {
  creating: ContainerState.CONTAINER_UNKNOWN,
  created: ContainerState.CONTAINER_CREATED,
  running: ContainerState.CONTAINER_RUNNING,
  exited: ContainerState.CONTAINER_EXITED,
};

/** CRI's state of a container. */
export function stateOf(container: ContainerRecord): ContainerState {
  return STATES[container.phase];
}

/** What ListContainers says of a container. */
export function toContainer(container: ContainerRecord): Container {
  return {
    id: container.id,
    podSandboxId: container.podId,
    metadata: container.config.metadata,
    image: container.config.image,
    imageRef: container.imageId,
    imageId: container.imageId,
    state: stateOf(container),
    createdAt: container.createdAtNs,
    labels: container.config.labels,
    annotations: container.config.annotations,
  };
}

/** The kubelet asks for an image by its id; people want to read the name that they gave it. */
function nameOf({ config, imageRef }: ContainerRecord, image: Image | undefined): string {
  return config.image?.userSpecifiedImage || image?.repoTags[0] || imageRef;
}

/** What ContainerStatus says of a container. */
export function toContainerStatus(core: Core, container: ContainerRecord): ContainerStatus {
  const { config } = container;
  const image = core.images.find(container.imageId);
  const resources = config.linux?.resources;
  const status: DeepPartial<ContainerStatus> = {
    id: container.id,
    metadata: config.metadata,
    state: stateOf(container),
    createdAt: container.createdAtNs,
    // Set a moment before the process is let go.
    startedAt: container.phase === "created" ? 0n : container.startedAtNs,
    finishedAt: container.finishedAtNs,
    exitCode: container.exitCode,
    image: { image: nameOf(container, image), annotations: config.image?.annotations },
    imageRef: image?.repoDigests[0] ?? container.imageId,
    imageId: container.imageId,
    reason: container.reason,
    message: container.message,
    labels: config.labels,
    annotations: config.annotations,
    mounts: config.mounts,
    logPath: container.logPath,
    resources: resources && { linux: resources },
    user: {
      linux: {
        uid: BigInt(container.user.uid),
        gid: BigInt(container.user.gid),
        supplementalGroups: container.user.supplementalGroups.map(BigInt),
      },
    },
    stopSignal: stopSignal(Signal.RUNTIME_DEFAULT, String(container.stopSignal)).signal,
  };
  return ContainerStatus.fromPartial(status);
}
