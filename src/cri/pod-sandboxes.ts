import type { PodSandbox } from "../gen/runtime/v1/pod_sandbox_pb.ts";
import type { RuntimeServiceDefinition } from "../gen/runtime/v1/runtime_service_pb.ts";
import { podInfo } from "../pod/info.ts";
import { removePod } from "../pod/remove.ts";
import { runPod } from "../pod/run.ts";
import { stateOf, toPodSandbox, toPodSandboxStatus } from "../pod/status.ts";
import { stopPod } from "../pod/stop.ts";
import { requirePod } from "../state/find.ts";
import type { CriContext } from "./context.ts";
import { requireId } from "./ids.ts";
import { hasLabels } from "./labels.ts";
import { ListBudget, onlyKubelets } from "./list-budget.ts";
import { type ServiceImpl, VerboseAnswer } from "./service.ts";

/** RunPodSandbox, StopPodSandbox, RemovePodSandbox, PodSandboxStatus, ListPodSandbox. */
export function podSandboxRpcs({ core }: CriContext) {
  const budget = new ListBudget<PodSandbox>("ListPodSandbox", [
    onlyKubelets("annotations"),
    onlyKubelets("labels"),
  ]);
  return {
    async runPodSandbox({ config, runtimeHandler }, { signal }) {
      return { podSandboxId: await runPod(core, { config, handler: runtimeHandler, signal }) };
    },

    async stopPodSandbox({ podSandboxId }) {
      await stopPod(core, requireId("pod_sandbox_id", podSandboxId));
      return {};
    },

    async removePodSandbox({ podSandboxId }) {
      await removePod(core, requireId("pod_sandbox_id", podSandboxId));
      return {};
    },

    async podSandboxStatus({ podSandboxId, verbose }) {
      const pod = requirePod(core.store, requireId("pod_sandbox_id", podSandboxId));
      const answer = { status: toPodSandboxStatus(pod, core.store.podNotes(pod)) };
      return verbose ? new VerboseAnswer(answer, podInfo(core, pod)) : answer;
    },

    listPodSandbox({ filter }) {
      const wanted = filter?.state?.state;
      const items = [...core.store.pods.values()].filter(
        (pod) =>
          pod.phase !== "creating" &&
          pod.id.startsWith(filter?.id ?? "") &&
          (wanted === undefined || stateOf(pod) === wanted) &&
          hasLabels(pod.config, filter?.labelSelector, () => core.store.podNotes(pod).labels),
      );
      return { items: budget.fit(items.map(toPodSandbox)) };
    },
  } satisfies ServiceImpl<typeof RuntimeServiceDefinition>;
}
