import { randomBytes } from "node:crypto";
import type { Core } from "../container/core.ts";
import { hostnameOf } from "../container/hostname.ts";
import { podPaths } from "../container/paths.ts";
import { monitorPlacementOf } from "../container/placement.ts";
import { inState, requireRoom } from "../container/room.ts";
import { CribError } from "../error.ts";
import { type PodSandboxConfig, Protocol } from "../gen/runtime/v1/pod_sandbox_config_pb.ts";
import { createCgroup, joinFiles } from "../linux/cgroup.ts";
import { type CgroupPlacement, startScope } from "../linux/systemd.ts";
import type { Monitor } from "../monitor/client.ts";
import { startMonitor } from "../monitor/start.ts";
import type { PodAttachment } from "../network/network.ts";
import { log } from "../observe/log.ts";
import type { Operation } from "../observe/operations.ts";
import { orUndo } from "../observe/undo.ts";
import { nowNs } from "../state/clock.ts";
import { fingerprint } from "../state/fingerprint.ts";
import { keptPodConfig } from "../state/kept-config.ts";
import type { NamespacePins, PodRecord } from "../state/records.ts";
import { lendFiles, resolvConf } from "./files.ts";
import { removePod } from "./remove.ts";
import { undoPod } from "./stop.ts";
import { dottedSysctl, namespaceModes, validatePod } from "./validate.ts";
import { watchMonitor } from "./watch.ts";

/**
 * Makes a pod: cgroup, monitor with the pod's namespaces, files, network.
 * The same request again joins the running creation.
 *
 * @returns the pod's id.
 */
export async function runPod(
  core: Core,
  request: { config: PodSandboxConfig | undefined; handler: string; signal: AbortSignal },
): Promise<string> {
  const { config, handler } = request;
  if (config === undefined) throw new CribError("InvalidArgument", "config is missing");
  validatePod(core, config);
  const { name = "", namespace = "", uid = "", attempt = 0 } = config.metadata ?? {};
  const print = (of: PodSandboxConfig) => fingerprint(of);
  return core.creations.run({
    what: `pod sandbox ${namespace}/${name} (uid ${uid}, attempt ${attempt})`,
    key: JSON.stringify(["pod", namespace, name, uid, attempt]),
    fingerprint: () => `${handler} ${print(config)}`,
    signal: request.signal,
    existing: () => {
      // One that is still "creating" here is being undone, and has no name any more.
      const same = [...core.store.pods.values()].find(
        ({ phase, config: { metadata: other } }) =>
          phase !== "creating" &&
          [name, namespace, uid, attempt].every(
            (part, index) =>
              part === [other?.name, other?.namespace, other?.uid, other?.attempt][index],
          ),
      );
      // What was asked for may have been "": the default handler by another name is the same pod.
      // One that is no longer ready is of no use to who asks for it.
      const fresh = same?.phase === "ready";
      const printed = () => `${handler} ${print(core.store.podConfig(same?.id ?? ""))}`;
      return same && { ...same, fingerprint: fresh ? printed() : "" };
    },
    make: () => make(core, config, handler),
    discard: (id) => removePod(core, id),
    setUnclaimed: (id, unclaimed) => {
      const pod = core.store.pods.get(id);
      if (pod === undefined) return;
      pod.unclaimed = unclaimed;
      core.store.savePod(pod);
    },
  });
}

async function make(core: Core, config: PodSandboxConfig, handler: string): Promise<string> {
  // Refused here, before there is anything to undo: unknown handler, missing runtime, wrong cgroup.
  const runtime = await core.handlers.get(handler);
  const pod = newRecord(core, config, runtime.handler);
  const run = async (operation: Operation) => {
    core.store.addPod(pod, config);
    await build(core, { pod, config, operation });
    const monitor = core.monitors.get(pod.id);
    if (monitor === undefined) {
      throw new CribError("Unavailable", `pod sandbox ${podName(pod)}: its monitor died`);
    }
    if (pod.namespaces.pid !== undefined && monitor.pausePid === undefined) {
      throw new CribError("Unavailable", `pod sandbox ${podName(pod)}: its PID namespace ended`);
    }
    pod.phase = "ready";
    core.store.savePod(pod);
    log().info(
      { podId: pod.id, pod: podName(pod), ips: pod.ips, monitorPid: pod.monitorPid },
      "pod sandbox is ready",
    );
    return pod.id;
  };
  return core.operations.run(`pod/${pod.id}`, "run", (operation) =>
    orUndo(
      () => run(operation),
      () => undoPod(core, pod),
    ),
  );
}

function newRecord(core: Core, config: PodSandboxConfig, handler: string): PodRecord {
  const id = randomBytes(32).toString("hex");
  const modes = namespaceModes(config);
  const { pin } = podPaths(core, id);
  const namespaces: NamespacePins = {};
  if (!modes.hostNetwork) Object.assign(namespaces, { net: pin("net"), uts: pin("uts") });
  if (!modes.hostIpc) namespaces.ipc = pin("ipc");
  if (modes.sharedPid) namespaces.pid = pin("pid");
  return {
    id,
    config: keptPodConfig(config),
    handler,
    createdAtNs: nowNs(),
    namespaces,
    cgroup: monitorPlacementOf(core, config, id).path,
    phase: "creating",
    ips: [],
    monitorPid: 0,
    unclaimed: false,
  };
}

interface Build {
  pod: PodRecord;
  config: PodSandboxConfig;
  operation: Operation;
}

async function build(core: Core, { pod, config, operation }: Build): Promise<void> {
  const hostNetwork = pod.namespaces.net === undefined;
  const hostname = hostnameOf(config, hostNetwork);
  const texts = { hostname, resolvConf: resolvConf(config.dnsConfig) };
  operation.stage("files");
  requireRoom(core);
  await inState(core, () => lendFiles(core, pod, texts));

  operation.stage("cgroup");
  const placement = monitorPlacementOf(core, config, pod.id);
  if (placement.unit === undefined) createCgroup(core.cgroups, pod.cgroup);

  operation.stage("monitor");
  const { monitorBinary } = await import("../monitor/binary.ts");
  const monitor = await startMonitor({
    podId: pod.id,
    directory: podPaths(core, pod.id).directory,
    namespaces: pod.namespaces,
    hostname: pod.namespaces.uts === undefined ? undefined : hostname,
    sysctls: podSysctls(core, pod),
    oomScoreAdj: core.host.oomScoreAdjMin,
    cgroupFiles: placement.unit === undefined ? joinFiles(core.cgroups, pod.cgroup) : [],
    deadlineMs: core.config.monitor.start_timeout_seconds * 1000,
    // Debian and systemd mount /run noexec.
    binary: await inState(core, () => monitorBinary(core.config.crib.state, core.config.crib.root)),
  });
  watchMonitor(core, pod, monitor);
  if (placement.unit !== undefined) {
    operation.stage("scope");
    await joinScope(core, pod, monitor, placement);
  }

  if (!hostNetwork) {
    operation.stage("network");
    pod.ips = (await core.network.add(attachment(pod, config))).ips;
  }
}

/** "namespace/name", for people. */
export function podName(pod: PodRecord): string {
  return `${pod.config.metadata?.namespace}/${pod.config.metadata?.name}`;
}

/** The node's default sysctls, where the pod has the namespace for them, under the pod's own. */
function podSysctls(core: Core, pod: PodRecord): Record<string, string> {
  const fits = ([name]: [string, string]) =>
    (name.startsWith("net.") ? pod.namespaces.net : pod.namespaces.ipc) !== undefined;
  const dotted = (sysctls: Record<string, string> = {}) =>
    Object.entries(sysctls).map(([name, value]): [string, string] => [dottedSysctl(name), value]);
  const defaults = dotted(core.config.runtime.default_sysctls).filter(fits);
  return Object.fromEntries([...defaults, ...dotted(pod.config.linux?.sysctls)]);
}

/** With the systemd driver the pod's own cgroup is a scope, which cannot be made without processes. */
async function joinScope(
  core: Core,
  pod: PodRecord,
  monitor: Monitor,
  { unit = "", slice = "" }: CgroupPlacement,
): Promise<void> {
  await startScope(core.cgroups, {
    unit,
    slice,
    pids: [monitor.pid, ...(monitor.pausePid === undefined ? [] : [monitor.pausePid])],
    description: `Crib pod ${podName(pod)}`,
    deadlineMs: 10_000,
  });
}

const PROTOCOLS = {
  [Protocol.TCP]: "tcp",
  [Protocol.UDP]: "udp",
  [Protocol.SCTP]: "sctp",
} as const;

function attachment(pod: PodRecord, config: PodSandboxConfig): PodAttachment {
  const { name = "", namespace = "", uid = "" } = config.metadata ?? {};
  return {
    id: pod.id,
    name,
    namespace,
    uid,
    netns: pod.namespaces.net ?? "",
    portMappings: config.portMappings.map((mapping) => ({
      protocol: PROTOCOLS[mapping.protocol],
      containerPort: mapping.containerPort,
      hostPort: mapping.hostPort,
      hostIp: mapping.hostIp,
    })),
    annotations: config.annotations,
    cgroupPath: config.linux?.cgroupParent ?? "",
    dns: {
      servers: config.dnsConfig?.servers ?? [],
      searches: config.dnsConfig?.searches ?? [],
      options: config.dnsConfig?.options ?? [],
    },
  };
}
