import { rm } from "node:fs/promises";
import { log } from "../observe/log.ts";
import { findContainer } from "../state/find.ts";
import type { ContainerRecord } from "../state/records.ts";
import type { Core } from "./core.ts";
import { release } from "./exit.ts";
import { containerPaths } from "./paths.ts";
import { stopContainer } from "./stop.ts";

/** Removes a container, killing it first when it runs. Idempotent: an unknown one is fine. */
export async function removeContainer(core: Core, id: string): Promise<void> {
  const container = findContainer(core.store, id);
  if (container === undefined) return;
  await stopContainer(core, container.id, 0);
  await core.operations.run(`container/${container.id}`, "remove", async (operation) => {
    if (!core.store.containers.has(container.id)) return;
    operation.stage("releasing");
    await discardContainer(core, container);
    log().info({ containerId: container.id }, "container removed");
  });
}

/** Takes away everything of a container that has ended or was never finished; the row goes last. */
export async function discardContainer(core: Core, container: ContainerRecord): Promise<void> {
  await release(core, container);
  await core.storage.remove(container.id);
  await rm(containerPaths(core, container.id).bundle, { recursive: true, force: true });
  core.store.deleteContainer(container.id);
}
