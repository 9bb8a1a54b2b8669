import type { RuntimeServiceDefinition } from "../gen/runtime/v1/runtime_service_pb.ts";
import { requireContainer } from "../state/find.ts";
import type { ContainerRecord } from "../state/records.ts";
import type { CriContext } from "./context.ts";
import { requireId } from "./ids.ts";
import { hasLabels } from "./labels.ts";
import { ListBudget, onlyKubelets, type Trim } from "./list-budget.ts";
import type { ServiceImpl } from "./service.ts";

/** ContainerStats and ListContainerStats. */
export function containerStatsRpcs({ core, stats }: CriContext) {
  const target = (container: ContainerRecord) => ({
    id: container.id,
    attributes: {
      id: container.id,
      metadata: container.config.metadata,
      labels: container.config.labels,
      annotations: container.config.annotations,
    },
    cgroupPath: container.phase === "running" ? container.cgroup : undefined,
    layerDirectory: core.storage.diff(container.id),
  });
  // The figures of a container are few.
  type Target = ReturnType<typeof target>;
  const budget = new ListBudget<Target>("ListContainerStats", [
    ofAttributes<Target["attributes"], Target>(onlyKubelets("annotations")),
    ofAttributes<Target["attributes"], Target>(onlyKubelets("labels")),
  ]);
  return {
    async containerStats({ containerId }) {
      const container = requireContainer(core.store, requireId("container_id", containerId));
      stats.retain(core.store.containers);
      const [answer] = await stats.read([target(container)]);
      return { stats: answer };
    },

    async listContainerStats({ filter }) {
      stats.retain(core.store.containers);
      // As the peers do: those that run, so that the kubelet is not told of the dead ones' zeros.
      const containers = [...core.store.containers.values()].filter(
        (container) =>
          container.phase === "running" &&
          container.id.startsWith(filter?.id ?? "") &&
          container.podId.startsWith(filter?.podSandboxId ?? "") &&
          hasLabels(
            container.config,
            filter?.labelSelector,
            () => core.store.containerNotes(container).labels,
          ),
      );
      return { stats: await stats.read(budget.fit(containers.map(target))) };
    },
  } satisfies ServiceImpl<typeof RuntimeServiceDefinition>;
}

function ofAttributes<A, T extends { attributes: A }>({ what, trim }: Trim<A>): Trim<T> {
  return { what, trim: (entry) => ({ ...entry, attributes: trim(entry.attributes) }) };
}
