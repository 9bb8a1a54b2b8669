/**
 * What the runtime tells CNI plugins about a pod: CNI_ARGS and the capability arguments.
 *
 * Source: CNI CONVENTIONS.md ("Well-known Capabilities"); the CNI_ARGS are those that network plugins for
 * Kubernetes read since dockershim.
 */
import { CribError } from "../error.ts";
import type { CniNetwork, PluginConfig } from "./conflist.ts";

/** A pod that is to be attached to the network. */
export interface PodAttachment {
  id: string;
  namespace: string;
  name: string;
  uid: string;
  /** Path of the pod's network namespace. */
  netns: string;
  /** Entries whose host port is 0 need no mapping and are left out. */
  portMappings: Array<{
    protocol: "tcp" | "udp" | "sctp";
    containerPort: number;
    hostPort: number;
    hostIp: string;
  }>;
  annotations: Record<string, string>;
  /** The pod's cgroup parent; "" when there is none. */
  cgroupPath: string;
  dns: { servers: string[]; searches: string[]; options: string[] };
}

/** The CNI_ARGS of a pod. A value that would break their syntax is refused. */
export function cniArgs(pod: PodAttachment): string {
  const values = [
    ["K8S_POD_NAMESPACE", pod.namespace, "namespace"],
    ["K8S_POD_NAME", pod.name, "name"],
    ["K8S_POD_INFRA_CONTAINER_ID", pod.id, "id"],
    ["K8S_POD_UID", pod.uid, "uid"],
  ] as const;
  for (const [name, value, field] of values) {
    if (/[;=\0]/.test(value)) {
      const what = `config.metadata.${field}: ${JSON.stringify(value)}`;
      const why = `must not hold ";" or "=", which divide CNI_ARGS (${name})`;
      throw new CribError("InvalidArgument", `${what} ${why}`);
    }
  }
  return ["IgnoreUnknown=1", ...values.map(([name, value]) => `${name}=${value}`)].join(";");
}

/** Every capability argument that the pod has a value for; a plugin gets those that it declares. */
export function capabilityArgs(pod: PodAttachment): Record<string, unknown> {
  const args: Record<string, unknown> = {
    "io.kubernetes.cri.pod-annotations": pod.annotations,
  };
  const mappings = pod.portMappings.filter((mapping) => mapping.hostPort > 0);
  if (mappings.length > 0) {
    args.portMappings = mappings.map(({ protocol, containerPort, hostPort, hostIp }) => ({
      hostPort,
      containerPort,
      protocol,
      ...(hostIp === "" ? {} : { hostIP: hostIp }),
    }));
  }
  const bandwidth = bandwidthOf(pod.annotations);
  if (bandwidth !== undefined) args.bandwidth = bandwidth;
  const { servers, searches, options } = pod.dns;
  if (servers.length + searches.length + options.length > 0) {
    args.dns = { servers, searches, options };
  }
  if (pod.cgroupPath !== "") args.cgroupPath = pod.cgroupPath;
  return args;
}

/**
 * Refuses a pod that asks for what nobody in the network does: it would run, and its host ports or its
 * limits would not be there.
 *
 * @param assumed Capabilities that the network has without a plugin that declares them.
 * @throws CribError FailedPrecondition
 */
export function requireServed(
  pod: PodAttachment,
  network: CniNetwork,
  assumed: readonly string[],
): void {
  const refuse = (field: string, value: unknown, capability: string) => {
    const why = `no plugin of network ${network.name} has the capability ${capability}`;
    throw new CribError("FailedPrecondition", `${field}: ${JSON.stringify(value)}: ${why}`);
  };
  const index = pod.portMappings.findIndex(({ hostPort }) => hostPort > 0);
  if (index >= 0 && !isServed("portMappings", network.plugins, assumed)) {
    const field = `config.port_mappings[${index}].host_port`;
    refuse(field, pod.portMappings[index]?.hostPort, "portMappings");
  }
  const key = BANDWIDTH_ANNOTATIONS.find((name) => pod.annotations[name] !== undefined);
  if (key !== undefined && !isServed("bandwidth", network.plugins, assumed)) {
    refuse(`config.annotations["${key}"]`, pod.annotations[key], "bandwidth");
  }
}

/** Whether a plugin declares a capability, or the network is known to have it. */
export function isServed(
  capability: string,
  plugins: readonly PluginConfig[],
  assumed: readonly string[],
): boolean {
  return (
    assumed.includes(capability) ||
    plugins.some(({ capabilities }) => capabilities?.[capability] === true)
  );
}

const DIRECTIONS = ["ingress", "egress"] as const;
const bandwidthKey = (direction: (typeof DIRECTIONS)[number]) =>
  `kubernetes.io/${direction}-bandwidth`;

/** The annotations of a pod that limit its bandwidth. */
export const BANDWIDTH_ANNOTATIONS: readonly string[] = DIRECTIONS.map(bandwidthKey);

/** The `bandwidth` capability: rates in bits per second, bursts in bits. */
function bandwidthOf(annotations: Record<string, string>): Record<string, number> | undefined {
  const bandwidth: Record<string, number> = {};
  for (const direction of DIRECTIONS) {
    const key = bandwidthKey(direction);
    const value = annotations[key];
    if (value === undefined) continue;
    const rate = parseRate(key, value);
    bandwidth[`${direction}Rate`] = rate;
    bandwidth[`${direction}Burst`] = burstBits(rate);
  }
  return Object.keys(bandwidth).length === 0 ? undefined : bandwidth;
}

/**
 * One second's worth of the rate: the token bucket is as full as the rate promises, and no more. At least
 * 8 Mbit, because a bucket smaller than a GSO packet stalls; at most what the plugin's counters hold.
 */
function burstBits(rate: number): number {
  return Math.min(Math.max(rate, 8_000_000), 2 ** 31 - 1);
}

const SUFFIXES: Record<string, number> = {
  "": 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
};

/** As Kubernetes' ParseQuantity reads one that is not negative. */
const QUANTITY = /^\+?(\d+(?:\.\d*)?|\.\d+)(?:([kMGTP]i?|Ki)|[eE]([+-]?\d{1,3}))?$/;

/** A Kubernetes quantity in bits per second; the kubelet's limits, 1k and 1P, apply. */
function parseRate(key: string, value: string): number {
  const [, digits, suffix = "", exponent] = QUANTITY.exec(value.trim()) ?? [];
  const factor = exponent === undefined ? SUFFIXES[suffix] : 10 ** Number(exponent);
  const rate = Math.ceil(Number(digits) * (factor ?? Number.NaN));
  if (!(rate >= 1e3 && rate <= 1e15)) {
    const what = `config.annotations["${key}"]: ${JSON.stringify(value)}`;
    const message = `${what} is not a rate from 1k to 1P bits per second`;
    throw new CribError("InvalidArgument", message);
  }
  return rate;
}
