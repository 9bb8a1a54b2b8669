import { randomBytes } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { CribError } from "../error.ts";
import type { ContainerConfig } from "../gen/runtime/v1/container_config_pb.ts";
import type { PodSandboxConfig } from "../gen/runtime/v1/pod_sandbox_config_pb.ts";
import type { Image } from "../image/images.ts";
import { oomFile } from "../linux/cgroup.ts";
import { quickenMoves } from "../linux/cgroup-moves.ts";
import { childEnvironment } from "../linux/command.ts";
import type { Monitor } from "../monitor/client.ts";
import { withDeadline } from "../monitor/deadline.ts";
import { log } from "../observe/log.ts";
import type { Operation } from "../observe/operations.ts";
import { orUndo } from "../observe/undo.ts";
import { nowNs } from "../state/clock.ts";
import { requirePod } from "../state/find.ts";
import { fingerprint } from "../state/fingerprint.ts";
import { keptContainerConfig } from "../state/kept-config.ts";
import type { ContainerRecord, PodRecord } from "../state/records.ts";
import { refuseLong } from "./config-size.ts";
import type { Core } from "./core.ts";
import { hostnameOf } from "./hostname.ts";
import { requireImage } from "./image-spec.ts";
import { mountImages } from "./image-volumes.ts";
import { containerPaths, lentPaths, logPathOf } from "./paths.ts";
import { placementOf } from "./placement.ts";
import { writeProcessFile } from "./process-file.ts";
import { discardById, removeContainer } from "./remove.ts";
import { inState } from "./room.ts";
import { requireSamePod } from "./sandbox-config.ts";
import type { SpecInput } from "./spec/input.ts";
import { stopSignal } from "./spec/signal.ts";
import { explainTarget, pinTarget, unpinTarget } from "./target.ts";

/**
 * Makes a container in a ready pod, up to the point where StartContainer lets it go.
 * The same request again joins the running creation.
 *
 * @returns the container's id.
 */
export async function createContainer(
  core: Core,
  request: {
    podId: string;
    config: ContainerConfig | undefined;
    sandboxConfig: PodSandboxConfig | undefined;
    signal: AbortSignal;
  },
): Promise<string> {
  const pod = requirePod(core.store, request.podId);
  requireSamePod(pod, request.sandboxConfig);
  const { config } = request;
  if (config === undefined) throw new CribError("InvalidArgument", "config is missing");
  const metadata = config.metadata;
  if (metadata === undefined || metadata.name === "") {
    throw new CribError("InvalidArgument", 'config.metadata.name: "" is empty');
  }
  refuseLong(config);
  return core.creations.run({
    what: `container ${metadata.name} (attempt ${metadata.attempt}) of pod ${pod.id}`,
    key: JSON.stringify(["container", pod.id, metadata.name, metadata.attempt]),
    fingerprint: () => fingerprintOf(config),
    signal: request.signal,
    existing: () => {
      const same = core.store
        .containersOf(pod.id)
        .find(
          ({ phase, config: { metadata: other } }) =>
            phase !== "creating" &&
            other?.name === metadata.name &&
            other.attempt === metadata.attempt,
        );
      // Only one that nothing has happened to can be what a retry asks for.
      const fresh = same?.phase === "created";
      const print = () => fingerprintOf(core.store.containerConfig(same?.id ?? ""));
      return same && { ...same, fingerprint: fresh ? print() : "" };
    },
    make: () => make(core, pod, config),
    discard: (id) => removeContainer(core, id),
    setUnclaimed: (id, unclaimed) => {
      const container = core.store.containers.get(id);
      if (container === undefined) return;
      container.unclaimed = unclaimed;
      core.store.saveContainer(container);
    },
  });
}

/**
 * What makes two requests the same. The kubelet gives each attempt at a container another host file for
 * its termination message, and reads the one that ContainerStatus names: that does not count.
 */
function fingerprintOf(config: ContainerConfig): string {
  const message = config.annotations["io.kubernetes.container.terminationMessagePath"];
  const mounts = config.mounts.map((mount) =>
    mount.containerPath === message ? { ...mount, hostPath: "" } : mount,
  );
  return fingerprint({ ...config, mounts });
}

function make(core: Core, pod: PodRecord, config: ContainerConfig): Promise<string> {
  requireReady(pod);
  // Whoever makes containers in it has got its id.
  pod.unclaimed = false;
  const image = imageOf(core, config);
  const record = newRecord(core, pod, config, image);
  const create = async (operation: Operation) => {
    core.store.addContainer(record, config);
    await build(core, { pod, record, config, image, operation });
    requireReady(pod);
    record.phase = "created";
    core.store.saveContainer(record);
    log().info({ containerId: record.id, podId: pod.id, pid: record.pid }, "container created");
    return record.id;
  };
  // The row goes last: what cannot be taken back now goes with the pod, which finds it by that.
  const undo = () => discardById(core, pod, record.id);
  return core.operations.run(`container/${record.id}`, "create", (operation) =>
    orUndo(() => create(operation), undo),
  );
}

function requireReady(pod: PodRecord): void {
  if (pod.phase !== "ready") {
    throw new CribError("FailedPrecondition", `pod sandbox ${pod.id} is ${pod.phase}, not ready`);
  }
}

function imageOf(core: Core, config: ContainerConfig): Image {
  const reference = requireImage(core, config.image, "config.image");
  const image = core.images.find(reference);
  if (image === undefined) {
    throw new CribError("NotFound", `image "${reference}" is not on this node`);
  }
  core.images.requireWhole(image, `image "${reference}"`);
  return image;
}

function newRecord(
  core: Core,
  pod: PodRecord,
  config: ContainerConfig,
  image: Image,
): ContainerRecord {
  const id = randomBytes(32).toString("hex");
  return {
    id,
    podId: pod.id,
    config: keptContainerConfig(config),
    imageId: image.id,
    imageRef: config.image?.image ?? "",
    createdAtNs: nowNs(),
    cgroup: placementOf(core, pod.config, id).path,
    logPath: logPathOf(pod.config.logDirectory, config.logPath),
    layers: image.layers,
    stopSignal: stopSignal(config.stopSignal, core.images.documents.run(image.id).StopSignal)
      .number,
    phase: "creating",
    user: { uid: 0, gid: 0, supplementalGroups: [] },
    pid: 0,
    startedAtNs: 0n,
    finishedAtNs: 0n,
    exitCode: 0,
    reason: "",
    message: "",
    droppedLogBytes: 0n,
    unclaimed: false,
  };
}

interface Build {
  pod: PodRecord;
  record: ContainerRecord;
  config: ContainerConfig;
  image: Image;
  operation: Operation;
}

async function build(core: Core, made: Build): Promise<void> {
  const { pod, record, operation } = made;
  const runtime = await core.handlers.get(pod.handler);
  const monitor = core.monitors.get(pod.id);
  if (monitor === undefined) {
    throw new CribError("Unavailable", `pod sandbox ${pod.id} has no monitor; make it anew`);
  }
  quickenMoves(core.cgroups);
  await verifyImage(core, made);
  operation.stage("root file system");
  const { rootfs } = await core.storage.prepare(record.id, [...record.layers]);
  const imageSources = await mountImages(core, pod, record);

  operation.stage("config.json");
  const paths = containerPaths(core, record.id);
  await inState(core, () => mkdirSync(paths.bundle, { recursive: true, mode: 0o700 }));
  // Both look at paths that the client names: on a file system that does not answer they wait for ever.
  const limitMs = core.config.runtime.create_timeout_seconds * 1000;
  const what = `container ${record.config.metadata?.name}: its mounts and log directory`;
  await withDeadline(prepare(core, made, { rootfs, imageSources }), limitMs, what);

  operation.stage(`${runtime.handler} create`);
  await runCreate(core, monitor, record, {
    argv: runtime.createArgv(record.id, paths.bundle, {
      pid: paths.pidFile,
      log: paths.runtimeLog,
      console: consoleSocketOf(record),
    }),
    explain: () => runtime.readLog(paths.runtimeLog),
    recheck: () => core.handlers.recheck(pod.handler),
  }).catch(async (error) => {
    throw await explainTarget(core, pod, record, error);
  });
  await unpinTarget(core, record.id);
}

/** What is mounted for a container. */
type Mounted = Pick<SpecInput, "rootfs" | "imageSources">;

async function prepare(core: Core, made: Build, mounted: Mounted): Promise<void> {
  const { logPath } = made.record;
  await writeSpec(core, made, mounted);
  if (logPath !== "") await mkdir(dirname(logPath), { recursive: true, mode: 0o755 });
}

/** The policy of the pod's namespace may be stricter than that of the pod the image was pulled for. */
async function verifyImage(core: Core, { pod, record, image }: Build): Promise<void> {
  const named = record.config.image?.userSpecifiedImage || record.imageRef;
  await core.images.verify(image, named, pod.config.metadata?.namespace ?? "");
}

async function writeSpec(
  core: Core,
  { pod, record, config, image }: Build,
  mounted: Mounted,
): Promise<void> {
  const podConfig = core.store.podConfig(pod.id);
  const lent = lentPaths(core, pod.id);
  const placement = placementOf(core, podConfig, record.id);
  // Loaded with the first container: a daemon that restarts makes none.
  const { buildSpec } = await import("./spec/index.ts");
  const { spec, user, warnings } = await buildSpec({
    pod: {
      id: pod.id,
      config: podConfig,
      namespaces: pod.namespaces,
      hostname: hostnameOf(podConfig, pod.namespaces.net === undefined),
      resolvConf: lent.resolvConf,
      hostnameFile: lent.hostname,
      shm: pod.namespaces.ipc === undefined ? "/dev/shm" : lent.shm,
      privileged: podConfig.linux?.securityContext?.privileged ?? false,
    },
    container: { id: record.id, config },
    image: { config: core.images.documents.run(image.id) },
    ...mounted,
    cgroupsPath: placement.cgroupsPath,
    systemdCgroup: core.cgroupDriver === "systemd",
    targetPidNamespace: await pinTarget(core, pod, record),
    host: { ...core.host, cgroupVersion: core.cgroups.version },
    runtime: core.config.runtime,
    allowedAnnotations:
      core.config.runtime.handlers[pod.handler]?.allowed_annotations ??
      core.config.runtime.allowed_annotations,
    pidsLimit: core.config.container.pids_limit,
    absentMountSourcesToReject: core.config.container.absent_mount_sources_to_reject,
    features: await (await core.handlers.get(pod.handler)).features(),
  });
  for (const warning of warnings) log().warn({ containerId: record.id }, warning);
  record.user = user;
  const paths = containerPaths(core, record.id);
  await inState(core, () => {
    writeFileSync(paths.spec, JSON.stringify(spec), { mode: 0o600 });
    writeProcessFile(paths, spec);
  });
}

/** Its name in the bundle. */
function consoleSocketOf(record: ContainerRecord): string | undefined {
  return record.config.tty ? "console.sock" : undefined;
}

async function runCreate(
  core: Core,
  monitor: Monitor,
  record: ContainerRecord,
  runtime: { argv: string[]; explain: () => string | undefined; recheck: () => Promise<void> },
): Promise<void> {
  const paths = containerPaths(core, record.id);
  const deadlineMs = core.config.runtime.create_timeout_seconds * 1000;
  const created = await monitor.create({
    id: record.id,
    argv: runtime.argv,
    env: Object.entries(childEnvironment()).map(([name, value]) => `${name}=${value}`),
    cwd: paths.bundle,
    logPath: record.logPath,
    logBytesPerSecond: core.config.container.log_limit_bytes_per_second,
    stdin: record.config.stdin,
    stdinOnce: record.config.stdinOnce,
    consoleSocket: consoleSocketOf(record),
    pidFile: paths.pidFile,
    oomFile: oomFile(core.cgroups, record.cgroup),
    deadlineMs,
  });
  if (created.exitStatus === 0 && created.startError === undefined) {
    record.pid = created.pid;
    return;
  }
  const explained = runtime.explain();
  // It could not be run, or its libraries are gone.
  if (explained === undefined && created.exitStatus === 127) await runtime.recheck();
  const why = explained ?? created.startError ?? `exit status ${created.exitStatus}`;
  throw new CribError(
    "Internal",
    `cannot create container ${record.config.metadata?.name}: ${why}`,
  );
}
