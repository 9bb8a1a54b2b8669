import type { Config } from "../config/config.ts";
import type { Images } from "../image/images.ts";
import type { CgroupHost } from "../linux/cgroup.ts";
import type { HostFacts } from "../linux/host.ts";
import type { CgroupDriver } from "../linux/systemd.ts";
import type { Monitor } from "../monitor/client.ts";
import type { Unmount } from "../monitor/unmount.ts";
import type { Network } from "../network/network.ts";
import type { Operations } from "../observe/operations.ts";
import type { Handlers } from "../runtime/handlers.ts";
import type { Creations } from "../state/creations.ts";
import type { Store } from "../state/store.ts";
import type { ContainerStorage } from "../storage/container-storage.ts";
import type { OutputPool } from "./exec-output.ts";
import type { Exits } from "./exits.ts";

/** What pods and containers are made with: one of each per daemon, put together by `crib serve`. */
export interface Core {
  readonly config: Config;
  readonly store: Store;
  readonly operations: Operations;
  readonly creations: Creations;
  readonly handlers: Handlers;
  readonly images: Images;
  readonly storage: ContainerStorage;
  readonly unmount: Unmount;
  readonly network: Network;
  readonly cgroups: CgroupHost;
  readonly cgroupDriver: CgroupDriver;
  readonly host: HostFacts;
  /** The live monitor of each pod that has one. */
  readonly monitors: Map<string, Monitor>;
  readonly exits: Exits;
  readonly execOutput: OutputPool;
}
