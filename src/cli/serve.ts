import { mkdirSync } from "node:fs";
import type { Server } from "node:net";
import { type Config, loadConfig } from "../config/config.ts";
import type { Core } from "../container/core.ts";
import { OutputPool } from "../container/exec-output.ts";
import { Exits } from "../container/exits.ts";
import { type CriServer, criServer } from "../cri/server.ts";
import { CribError, messageOf } from "../error.ts";
import { Images } from "../image/images.ts";
import { detectCgroups } from "../linux/cgroup.ts";
import { readHost } from "../linux/host.ts";
import { openNotifier } from "../linux/notify.ts";
import { preferSelf } from "../linux/priority.ts";
import { type CgroupDriver, systemdRunning } from "../linux/systemd.ts";
import { unmountBy } from "../monitor/unmount.ts";
import { Network } from "../network/network.ts";
import { log, startLog } from "../observe/log.ts";
import { Operations } from "../observe/operations.ts";
import { recover } from "../pod/recover.ts";
import { Handlers } from "../runtime/handlers.ts";
import { Creations } from "../state/creations.ts";
import { openDatabase } from "../state/database.ts";
import { Store } from "../state/store.ts";
import { StatsReader } from "../stats/reader.ts";
import { ContainerStorage } from "../storage/container-storage.ts";
import { VERSION } from "../version.ts";
import { serveCadvisor } from "./cadvisor.ts";
import { executable } from "./executable.ts";
import { lockRoot } from "./lock.ts";
import { keepMemoryLow } from "./memory.ts";
import { startMetrics } from "./metrics.ts";
import { beginSession, endSession, wasCutOff } from "./session.ts";
import { listen } from "./socket.ts";
import { openStreaming } from "./streaming.ts";
import { feedWatchdog, reloadOnHangup, tell } from "./supervision.ts";

export interface ServeOptions {
  config?: string;
  set?: string[];
  root?: string;
  state?: string;
  socket?: string;
}

/** How long a daemon that was told to end waits for what it is doing. */
const SHUTDOWN_MS = 20_000;

/** `crib serve`: runs the daemon until SIGTERM or SIGINT. Containers do not notice its end. */
export async function serve(options: ServeOptions): Promise<void> {
  const notifier = openNotifier();
  const load = () => configOf(options);
  const config = await load();
  await startLog(config.log);
  if (process.geteuid?.() !== 0) throw new CribError("PermissionDenied", "crib serve needs root");
  if (!preferSelf()) log().info("no CAP_SYS_NICE: answers may wait for others' work");
  // Whatever the caller's is: containers that are not root read some of our files.
  process.umask(0o022);
  prepareDirectories(config);
  const release = lockRoot(config);
  const up = Promise.withResolvers<void>();
  reloadOnHangup({ config, load, notifier, up: up.promise });
  const core = await makeCore(config);
  const recovered = recover(core);
  const stats = new StatsReader({
    host: core.cgroups,
    storageRoot: config.crib.root,
    executable: executable(),
  });
  const streaming = await openStreaming(core);
  const cri = criServer({ core, stats, streaming, recovered });
  // First: a kubelet that finds the CRI socket asks this one right away, and only once.
  const stopCadvisor = await serveCadvisor(core);
  const server = await listen(config.crib.socket, cri.accept).catch((error: unknown) => {
    stopCadvisor();
    throw error;
  });
  log().info({ version: VERSION, socket: config.crib.socket, pid: process.pid }, "crib is up");
  await tell(notifier, "READY=1", `STATUS=serving ${config.crib.socket}`);
  up.resolve();
  const endWatchdog = feedWatchdog(notifier, selfCheck(config.crib.socket));
  const endIdle = whenIdle(core);
  const endMemoryWatch = keepMemoryLow();
  const stopMetrics = await startMetrics(core, streaming);
  void tendImages(core, recovered);
  await untilSignal();
  endWatchdog();
  endIdle();
  endMemoryWatch();
  await tell(notifier, "STOPPING=1");
  await shutdown(core, server, cri);
  await streaming.close();
  stopCadvisor();
  await stopMetrics();
  endSession(core.config.crib.root);
  release();
  log().info("crib is down");
  process.exit(0);
}

function configOf({ config: file, set, root, state, socket }: ServeOptions): Promise<Config> {
  return loadConfig({ file, set, flags: { root, state, socket } });
}

/** Loaded only where a service manager watches. */
function selfCheck(socket: string): (deadlineMs: number) => Promise<void> {
  let check: Promise<(deadlineMs: number) => Promise<void>> | undefined;
  return async (deadlineMs) => {
    check ??= import("./self-check.ts").then(({ openSelfCheck }) => openSelfCheck(socket));
    await (await check)(deadlineMs);
  };
}

/** What can wait until the first callers have their answers. */
function whenIdle(core: Core): () => void {
  // Tried out before the first pod asks, if it gives us that long.
  const probe = setTimeout(() => void core.handlers.list(), 200).unref();
  // Starting up takes memory that running does not: give it back now, not at some later collection. What
  // was compiled for the start alone goes with it (1.4 MB); a collection alone keeps that.
  setTimeout(() => {
    Bun.shrink();
    Bun.gc(true);
  }, 400).unref();
  return () => clearTimeout(probe);
}

/** After recovery: a node that was started again has its pods first. */
async function tendImages(core: Core, recovered: Promise<void>): Promise<void> {
  await recovered;
  await checkAfterLoss(core).catch((error: unknown) => {
    log().error({ error: messageOf(error) }, "the layers are not checked: at the next start again");
  });
  const { image, crib } = core.config;
  const directory = image.preload_dir || `${crib.root}/preload`;
  const { Preload } = await import("../image/preload.ts");
  await new Preload(directory, core.images).start();
}

/** The mark that the session began comes last: a check that is itself cut off is made again. */
async function checkAfterLoss(core: Core): Promise<void> {
  const { root } = core.config.crib;
  const why = lossOf(core);
  if (why !== undefined) {
    log().warn(`${why}: the layers are checked`);
    const report = await core.images.check({ fast: true, repair: true });
    log().info({ ...report }, "layers checked");
  }
  beginSession(root);
}

/** Why layers may be damaged; undefined when nothing speaks for it. */
function lossOf({ config, images }: Core): string | undefined {
  if (wasCutOff(config.crib.root)) return "the machine was not shut down in order";
  const whole = images.list().every((image) => images.isWhole(image));
  return whole ? undefined : "directories of layers are missing";
}

function prepareDirectories(config: Config): void {
  // Containers that are not root go through these to their own files, so others may pass, not read.
  for (const directory of [config.crib.root, config.crib.state]) {
    mkdirSync(directory, { recursive: true, mode: 0o711 });
  }
}

async function makeCore(config: Config): Promise<Core> {
  const { root, state } = config.crib;
  const cgroups = detectCgroups();
  const cgroupDriver = chooseDriver(config);
  const database = openDatabase(`${root}/crib.db`);
  const handlers = new Handlers({
    table: config.runtime.handlers,
    defaultHandler: config.runtime.default_handler,
    stateDir: `${state}/runtimes`,
    systemdCgroup: cgroupDriver === "systemd",
  });
  const unmount = unmountBy(async () => {
    const { monitorBinary } = await import("../monitor/binary.ts");
    return monitorBinary(state, root);
  });
  const core: Core = {
    config,
    store: new Store(database),
    operations: new Operations(),
    creations: new Creations(),
    handlers,
    images: await Images.open({ root, config, database, executable: executable() }),
    storage: new ContainerStorage({ root, database, unmount }),
    unmount,
    network: new Network({
      confDir: config.network.conf_dir,
      binDirs: config.network.bin_dirs,
      cacheDir: `${root}/network`,
      timeoutMs: config.network.timeout_seconds * 1000,
      assumedCapabilities: config.network.assumed_capabilities,
    }),
    cgroups,
    cgroupDriver,
    host: readHost(cgroups.controllers),
    monitors: new Map(),
    exits: new Exits(),
    execOutput: new OutputPool(),
  };
  return core;
}

function chooseDriver(config: Config): CgroupDriver {
  const { cgroup_driver: driver } = config.runtime;
  if (driver !== "auto") return driver;
  return systemdRunning() ? "systemd" : "cgroupfs";
}

function untilSignal(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.on(signal, () => {
        log().info({ signal }, "ending");
        resolve();
      });
    }
  });
}

/** Takes no new calls, lets running operations end, and leaves monitors and containers alone. */
async function shutdown(core: Core, server: Server, cri: CriServer): Promise<void> {
  server.close();
  cri.drain(SHUTDOWN_MS);
  if (!(await core.operations.idle(SHUTDOWN_MS))) {
    log().warn({ operations: core.operations.list() }, "ending with operations unfinished");
  }
  await core.handlers.settled();
}
