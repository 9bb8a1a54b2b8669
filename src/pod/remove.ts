import type { Core } from "../container/core.ts";
import { discardById, discardDamaged, removeContainer } from "../container/remove.ts";
import { log } from "../observe/log.ts";
import { findPod } from "../state/find.ts";
import { stopPod } from "./stop.ts";

/** Removes a pod with all its containers, stopping it first. Idempotent: an unknown one is fine. */
export async function removePod(core: Core, id: string): Promise<void> {
  const pod = findPod(core.store, id);
  if (pod === undefined) return;
  await stopPod(core, pod.id);
  await core.operations.run(`pod/${pod.id}`, "remove", async (operation) => {
    operation.stage("containers");
    await Promise.all(
      core.store.containersOf(pod.id).map(({ id: container, phase }) =>
        // One that is still "creating" is what an undo that failed has left.
        phase === "creating" ? discardById(core, pod, container) : removeContainer(core, container),
      ),
    );
    await discardDamaged(core, pod);
    core.store.deletePod(pod.id);
    log().info({ podId: pod.id }, "pod sandbox removed");
  });
}
