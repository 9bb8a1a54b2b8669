import type { DeepPartial, ImageSpec } from "../gen/runtime/v1/common_pb.ts";
import { type Mount, Signal } from "../gen/runtime/v1/container_config_pb.ts";
import { type Container, ContainerState, ContainerStatus } from "../gen/runtime/v1/container_pb.ts";
import type { LinuxContainerResources } from "../gen/runtime/v1/resources_pb.ts";
import type { Image } from "../image/images.ts";
import { nameOf as nameOfReference, parseReference } from "../image/reference.ts";
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
    image: imageSpecOf(container.config, container.config.image?.image ?? ""),
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

/**
 * What the image is by digest: in the repository that was asked for, where it has several. The kubelet
 * shows it to people, and tells images apart by `imageId`.
 */
function digestOf(
  { config, imageRef, imageId }: ContainerRecord,
  image: Image | undefined,
): string {
  const asked = config.image?.userSpecifiedImage || imageRef;
  const repository = repositoryOf(asked);
  const own = image?.repoDigests.filter((digest) => digest.startsWith(`${repository}@`)) ?? [];
  const exact = own.find((digest) => asked.endsWith(digest.slice(digest.indexOf("@"))));
  return exact ?? own[0] ?? image?.repoDigests[0] ?? imageId;
}

/** "docker.io/library/busybox" of "busybox:1"; undefined for an id. */
function repositoryOf(text: string): string | undefined {
  try {
    return nameOfReference(parseReference(text));
  } catch {
    return undefined;
  }
}

/**
 * The image as the request had it, under a name. Without its handler: all handlers run the same images,
 * and the kubelet collects one as unused whose container has another handler than the list of images.
 */
function imageSpecOf(
  config: Pick<ContainerRecord["config"], "image">,
  image: string,
): ImageSpec | undefined {
  return config.image && { ...config.image, image, runtimeHandler: "" };
}

/** An image volume's digest (KEP-5365): what PullImage answered. */
function withImageRef(core: Core, mount: Mount): DeepPartial<Mount> {
  if (mount.image === undefined) return mount;
  const imageRef = core.images.find(mount.image.image)?.id;
  return { ...mount, image: { ...mount.image, imageRef } };
}

/** The limits that hold: the kernel may not have let Crib set the oom_score_adj that was asked for. */
function resourcesOf(
  core: Core,
  resources: LinuxContainerResources | undefined,
): LinuxContainerResources | undefined {
  if (resources === undefined) return undefined;
  const least = BigInt(core.host.oomScoreAdjMin);
  return resources.oomScoreAdj < least ? { ...resources, oomScoreAdj: least } : resources;
}

/** What ContainerStatus says of a container. */
export function toContainerStatus(core: Core, container: ContainerRecord): ContainerStatus {
  const { config } = container;
  const notes = core.store.containerNotes(container);
  const image = core.images.find(container.imageId);
  const resources = resourcesOf(core, config.linux?.resources);
  const status: DeepPartial<ContainerStatus> = {
    id: container.id,
    metadata: config.metadata,
    state: stateOf(container),
    createdAt: container.createdAtNs,
    // Set a moment before the process is let go.
    startedAt: container.phase === "created" ? 0n : container.startedAtNs,
    finishedAt: container.finishedAtNs,
    exitCode: container.exitCode,
    image: imageSpecOf(notes, nameOf(container, image)),
    imageRef: digestOf(container, image),
    imageId: container.imageId,
    reason: container.reason,
    message: container.message,
    labels: notes.labels,
    annotations: notes.annotations,
    mounts: config.mounts.map((mount) => withImageRef(core, mount)),
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
