import type { RuntimeServiceDefinition } from "../gen/runtime/v1/runtime_service_pb.ts";
import { requireContainer } from "../state/find.ts";
import type { ContainerRecord } from "../state/records.ts";
import type { StatsTarget } from "../stats/reader.ts";
import type { CriContext } from "./context.ts";
import { requireId } from "./ids.ts";
import { hasLabels } from "./labels.ts";
import type { ServiceImpl } from "./service.ts";

/** ContainerStats and ListContainerStats. */
export function containerStatsRpcs({ core, stats }: CriContext) {
  const target = (container: ContainerRecord): StatsTarget => ({
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
          hasLabels(container.config.labels, filter?.labelSelector),
      );
      return { stats: await stats.read(containers.map(target)) };
    },
  } satisfies ServiceImpl<typeof RuntimeServiceDefinition>;
}
