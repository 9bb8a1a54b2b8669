/**
 * What stays in memory of a request's configuration. The rest is in the database, for those who make
 * something from it or tell all of it: an environment alone may have thousands of variables.
 */
import type { ContainerConfig } from "../gen/runtime/v1/container_config_pb.ts";
import type { PodSandboxConfig } from "../gen/runtime/v1/pod_sandbox_config_pb.ts";

interface Kept {
  /** Whether labels and annotations are all there: else only the kubelet's own. */
  readonly hasNotes: boolean;
}

export type KeptPodConfig = Omit<PodSandboxConfig, "dnsConfig" | "portMappings"> & Kept;
export type KeptContainerConfig = Omit<
  ContainerConfig,
  "envs" | "command" | "args" | "devices" | "CDIDevices"
> &
  Kept;

/** Of labels and annotations of one pod or container. More is told by the Status RPCs alone. */
const NOTES_LIMIT_BYTES = 32 * 1024;

export function keptPodConfig(config: PodSandboxConfig): KeptPodConfig {
  const { dnsConfig, portMappings, ...kept } = config;
  return keepNotes(kept);
}

export function keptContainerConfig(config: ContainerConfig): KeptContainerConfig {
  const { envs, command, args, devices, CDIDevices, ...kept } = config;
  const notes = keepNotes(kept);
  const { image } = notes;
  return notes.hasNotes || image === undefined
    ? notes
    : { ...notes, image: { ...image, annotations: {} } };
}

type Notes = Record<string, string>;

function keepNotes<T extends { labels: Notes; annotations: Notes; image?: unknown }>(
  config: T,
): T & Kept {
  const image = config.image as { annotations?: Notes } | undefined;
  const hasNotes =
    bytesOf(config.labels, config.annotations, image?.annotations ?? {}) <= NOTES_LIMIT_BYTES;
  if (hasNotes) return { ...config, hasNotes };
  const { labels, annotations } = config;
  return { ...config, labels: kubelets(labels), annotations: kubelets(annotations), hasNotes };
}

/** What names and values take together. */
export function bytesOf(...notes: ReadonlyArray<Readonly<Notes>>): number {
  return notes
    .flatMap((record) => Object.entries(record))
    .reduce((sum, [name, value]) => sum + Buffer.byteLength(name) + Buffer.byteLength(value), 0);
}

/**
 * What the kubelet reads in lists (pkg/kubelet/kuberuntime/labels.go): whose a container is, and whether it
 * still is as its pod wants it. By their whole names: others with the same beginning may be a pod's own.
 */
const KUBELETS = [
  "io.kubernetes.pod.name",
  "io.kubernetes.pod.namespace",
  "io.kubernetes.pod.uid",
  "io.kubernetes.container.name",
  "io.kubernetes.container.hash",
  "io.kubernetes.container.restartCount",
];
/** A name in Kubernetes has up to 253. */
const KUBELETS_VALUE_LIMIT = 512;

/** The kubelet's own of labels or annotations. */
export function kubelets(notes: Readonly<Notes>): Notes {
  const own = KUBELETS.map((name): [string, string] => [name, notes[name] ?? ""]);
  return Object.fromEntries(
    own.filter(([, value]) => value !== "" && value.length <= KUBELETS_VALUE_LIMIT),
  );
}
