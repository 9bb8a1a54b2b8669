import { createContainer } from "../container/create.ts";
import { containerInfo } from "../container/info.ts";
import { removeContainer } from "../container/remove.ts";
import { reopenContainerLog } from "../container/reopen-log.ts";
import { startContainer } from "../container/start.ts";
import { stateOf, toContainer, toContainerStatus } from "../container/status.ts";
import { stopContainer } from "../container/stop.ts";
import type { ImageSpec } from "../gen/runtime/v1/common_pb.ts";
import type { Container, ContainerFilter } from "../gen/runtime/v1/container_pb.ts";
import type { RuntimeServiceDefinition } from "../gen/runtime/v1/runtime_service_pb.ts";
import { requireContainer } from "../state/find.ts";
import type { ContainerRecord } from "../state/records.ts";
import type { Store } from "../state/store.ts";
import type { CriContext } from "./context.ts";
import { requireId } from "./ids.ts";
import { hasLabels } from "./labels.ts";
import { ListBudget, onlyKubelets } from "./list-budget.ts";
import { type ServiceImpl, VerboseAnswer } from "./service.ts";

/** The life of a container: Create, Start, Stop, Remove, Status, List, ReopenContainerLog. */
export function containerRpcs({ core }: CriContext) {
  const budget = new ListBudget<Container>("ListContainers", [
    onlyKubelets("annotations"),
    { what: "image", trim: (entry) => ({ ...entry, image: withoutNotes(entry.image) }) },
    onlyKubelets("labels"),
  ]);
  return {
    async createContainer({ podSandboxId, config, sandboxConfig }, { signal }) {
      const podId = requireId("pod_sandbox_id", podSandboxId);
      const request = { podId, config, sandboxConfig, signal };
      return { containerId: await createContainer(core, request) };
    },

    async startContainer({ containerId }) {
      await startContainer(core, requireId("container_id", containerId));
      return {};
    },

    async stopContainer({ containerId, timeout }) {
      await stopContainer(core, requireId("container_id", containerId), Number(timeout));
      return {};
    },

    async removeContainer({ containerId }) {
      await removeContainer(core, requireId("container_id", containerId));
      return {};
    },

    async reopenContainerLog({ containerId }) {
      await reopenContainerLog(core, requireId("container_id", containerId));
      return {};
    },

    async containerStatus({ containerId, verbose }) {
      const container = requireContainer(core.store, requireId("container_id", containerId));
      const answer = { status: toContainerStatus(core, container) };
      return verbose ? new VerboseAnswer(answer, await containerInfo(core, container)) : answer;
    },

    listContainers({ filter }) {
      const containers = [...core.store.containers.values()].filter(
        (container) => container.phase !== "creating" && matches(core.store, container, filter),
      );
      return { containers: budget.fit(containers.map(toContainer)) };
    },
  } satisfies ServiceImpl<typeof RuntimeServiceDefinition>;
}

/** The kubelet wants to find the image's name or id in a list, not what else its pod says of it. */
function withoutNotes(image: ImageSpec | undefined): ImageSpec | undefined {
  return image && { ...image, annotations: {}, userSpecifiedImage: "" };
}

function matches(
  store: Store,
  container: ContainerRecord,
  filter: ContainerFilter | undefined,
): boolean {
  return (
    container.id.startsWith(filter?.id ?? "") &&
    container.podId.startsWith(filter?.podSandboxId ?? "") &&
    (filter?.state === undefined || stateOf(container) === filter.state.state) &&
    hasLabels(container.config, filter?.labelSelector, () => store.containerNotes(container).labels)
  );
}
