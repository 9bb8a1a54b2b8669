/**
 * What the cAdvisor inside the kubelet is told of a container or a pod: the JSON of CRI-O's inspection
 * endpoint, as cAdvisor v0.56 reads it (container/crio/client.go).
 */
import type { Core } from "../container/core.ts";
import { formatReference, parseReference } from "../image/reference.ts";
import type { ContainerRecord, PodRecord } from "../state/records.ts";

/** The label by which cAdvisor knows the one cgroup of a pod whose network it counts. */
const NAME_LABEL = "io.kubernetes.container.name";
const POD_CONTAINER_NAME = "POD";
/** A pod has no image; dashboards skip series whose image is empty, also those of the network. */
const POD_IMAGE = "crib-monitor";

/** The answer to GET /containers/ID. Maps are never null: cAdvisor writes into `labels`. */
export interface ContainerInfo {
  name: string;
  /** In the pod's network namespace; 0: cAdvisor asks again with its next sample. */
  pid: number;
  image: string;
  /** Nanoseconds since 1970. */
  created_time: bigint;
  labels: Record<string, string>;
  annotations: Record<string, string>;
  log_path: string;
  /** cAdvisor measures the directory "diff" beside this one. */
  root: string;
  sandbox: string;
  ip_address: string;
  ip_addresses: readonly string[];
}

/** Facts that the caller adds to what records say. */
export interface InfoContext {
  core: Pick<Core, "store" | "images" | "storage">;
  /** A path ".../merged" that has an empty directory "diff" beside it: a pod writes nothing itself. */
  emptyRoot: string;
}

/** The container or pod with this full id, also while it is being made: cAdvisor asks only once. */
export function findInfo(context: InfoContext, id: string): ContainerInfo | undefined {
  const { store } = context.core;
  const container = store.containers.get(id);
  if (container !== undefined) return containerInfo(context, container);
  const pod = store.pods.get(id);
  return pod === undefined ? undefined : podInfo(context, pod);
}

function containerInfo({ core }: InfoContext, container: ContainerRecord): ContainerInfo {
  const { config } = container;
  const pod = core.store.pods.get(container.podId);
  const alive = container.phase === "running" || container.phase === "created";
  const name = config.metadata?.name ?? "";
  return {
    ...shared(pod),
    name: names(name, pod, config.metadata?.attempt ?? 0),
    pid: alive ? container.pid : 0,
    image: imageName(core, container),
    created_time: container.createdAtNs,
    labels: { ...podLabels(pod), [NAME_LABEL]: name, ...config.labels },
    annotations: { ...config.annotations },
    log_path: container.logPath,
    root: core.storage.rootfs(container.id),
  };
}

/** The pod's own cgroup: it holds the monitor, which is in the pod's network namespace. */
function podInfo({ emptyRoot }: InfoContext, pod: PodRecord): ContainerInfo {
  const { config } = pod;
  return {
    ...shared(pod),
    name: names(POD_CONTAINER_NAME, pod, config.metadata?.attempt ?? 0),
    pid: pod.phase === "stopped" ? 0 : pod.monitorPid,
    image: POD_IMAGE,
    created_time: pod.createdAtNs,
    labels: { ...podLabels(pod), ...config.labels, [NAME_LABEL]: POD_CONTAINER_NAME },
    annotations: { ...config.annotations },
    log_path: "",
    root: emptyRoot,
  };
}

function shared(pod: PodRecord | undefined) {
  const ips = pod?.ips ?? [];
  return { sandbox: pod?.id ?? "", ip_address: ips[0] ?? "", ip_addresses: ips };
}

/** The kubelet sends these itself; crictl and others do not. */
function podLabels(pod: PodRecord | undefined): Record<string, string> {
  const { name = "", namespace = "", uid = "" } = pod?.config.metadata ?? {};
  return {
    "io.kubernetes.pod.name": name,
    "io.kubernetes.pod.namespace": namespace,
    "io.kubernetes.pod.uid": uid,
  };
}

/** "k8s_NAME_POD_NAMESPACE_UID_ATTEMPT": the series' label "name", which dashboards select by. */
function names(name: string, pod: PodRecord | undefined, attempt: number): string {
  const { name: podName = "", namespace = "", uid = "" } = pod?.config.metadata ?? {};
  return ["k8s", name, podName, namespace, uid, attempt].join("_");
}

/** The name that the pod's author wrote where the image still has it, else any name of it. */
function imageName({ images }: InfoContext["core"], container: ContainerRecord): string {
  const image = images.find(container.imageId);
  const known = image === undefined ? [] : [...image.repoTags, ...image.repoDigests];
  const wanted = fullName(container.config.image?.userSpecifiedImage ?? "");
  return known.find((name) => name === wanted) ?? known[0] ?? container.imageRef;
}

function fullName(text: string): string {
  try {
    return formatReference(parseReference(text));
  } catch {
    return text;
  }
}
