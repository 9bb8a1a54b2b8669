/** What `crictl inspect` shows beside the status, under the names that agents know from the peers. */
import { readFile } from "node:fs/promises";
import { codeOf } from "../linux/errno.ts";
import type { ContainerRecord } from "../state/records.ts";
import { configJson } from "./config-json.ts";
import type { Core } from "./core.ts";
import { droppedLogBytesOf } from "./dropped-log.ts";
import { containerPaths } from "./paths.ts";

/** What is JSON already: it may be long, and nobody here needs to understand it. */
export class JsonText {
  constructor(readonly bytes: Uint8Array) {}
}

/**
 * A container: `sandboxID`, `pid`, `privileged`, `runtimeSpec` as with both peers; `config`, `snapshotKey`,
 * `snapshotter`, `runtimeType` as with containerd. The environment is in it, secrets too, as there: who
 * reaches the socket can read it in the container.
 */
export async function containerInfo(core: Core, container: ContainerRecord): Promise<object> {
  const { bundle, spec } = containerPaths(core, container.id);
  const alive = container.phase === "created" || container.phase === "running";
  return {
    sandboxID: container.podId,
    pid: alive ? container.pid : 0,
    privileged: container.config.linux?.securityContext?.privileged ?? false,
    snapshotKey: container.id,
    snapshotter: "overlayfs",
    runtimeType: core.store.pods.get(container.podId)?.handler ?? "",
    droppedLogBytes: await droppedLogBytesOf(core, container),
    cgroup: container.cgroup,
    bundle,
    root: core.storage.rootfs(container.id),
    config: configJson(core.store.containerConfig(container.id)),
    runtimeSpec: await specText(spec),
  };
}

/** A container's config.json; null when it is gone, as after a reboot. */
async function specText(path: string): Promise<JsonText | null> {
  try {
    return new JsonText(await readFile(path));
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    throw error;
  }
}
