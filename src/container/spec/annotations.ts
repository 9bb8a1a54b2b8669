import type { SpecInput } from "./input.ts";
import { invalid } from "./refuse.ts";

/** Names by which OCI runtimes take orders: systemd properties, hooks, what runs the container at all. */
const ORDERS = [
  "dev.gvisor.",
  "io.containers.trace-syscall",
  "io.katacontainers.",
  "krun.",
  "module.wasm.",
  "org.criu.",
  "org.systemd.property.",
  "run.oci.",
];

/**
 * Annotations of the OCI configuration: those of the pod and the container, and the container's labels,
 * that the handler may have ("SHOULD NOT influence runtime behaviour", CRI), and what node agents and VM
 * runtimes look for under CRI-O's and containerd's names. No environment, no command. The others are in
 * the status; a warning names those that would have been orders.
 */
export function buildAnnotations(input: SpecInput): {
  annotations: Record<string, string>;
  warnings: string[];
} {
  const { config } = input.container;
  const warnings: string[] = [];
  const annotations: Record<string, string> = {};
  // A later one wins: the pod's are its author's, the container's the kubelet's and its plugins'.
  for (const [field, values] of Object.entries({
    "the pod's annotations": input.pod.config.annotations,
    labels: config.labels,
    annotations: config.annotations,
  })) {
    for (const [key, value] of Object.entries(values)) {
      if (key === "") throw invalid(field, "", "a key must not be empty");
      if (isAllowed(key, input.allowedAnnotations)) annotations[key] = value;
      else if (ORDERS.some((prefix) => key.startsWith(prefix))) {
        const why = "runtime.allowed_annotations does not have it";
        warnings.push(`${field}: ${key} is not passed to the OCI runtime: ${why}`);
      }
    }
  }
  // Else crun puts the container into a cgroup of its own below its scope, unlike runc.
  const ours: Record<string, string> = input.systemdCgroup
    ? { "run.oci.systemd.subgroup": "" }
    : {};
  return { annotations: { ...annotations, ...identity(input), ...ours }, warnings };
}

function isAllowed(key: string, patterns: readonly string[]): boolean {
  return patterns.some((pattern) =>
    pattern.endsWith("*") ? key.startsWith(pattern.slice(0, -1)) : key === pattern,
  );
}

function identity({ pod, container }: SpecInput): Record<string, string> {
  const { name = "", attempt = 0 } = container.config.metadata ?? {};
  const image = container.config.image;
  const imageName = image?.userSpecifiedImage || image?.image || "";
  const meta = pod.config.metadata;
  const containerd = {
    "container-type": "container",
    "container-name": name,
    "image-name": imageName,
    "sandbox-id": pod.id,
    "sandbox-name": meta?.name ?? "",
    "sandbox-namespace": meta?.namespace ?? "",
    "sandbox-uid": meta?.uid ?? "",
  };
  const crio = {
    ContainerID: container.id,
    ContainerType: "container",
    SandboxID: pod.id,
    SandboxName: meta?.name ?? "",
    KubeName: meta?.name ?? "",
    Namespace: meta?.namespace ?? "",
    ContainerName: name,
    Attempt: String(attempt),
    ImageName: imageName,
    Image: image?.image ?? "",
    TTY: String(container.config.tty),
    Stdin: String(container.config.stdin),
    StdinOnce: String(container.config.stdinOnce),
  };
  return {
    ...prefixed("io.kubernetes.cri.", containerd),
    ...prefixed("io.kubernetes.cri-o.", crio),
  };
}

function prefixed(prefix: string, values: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [prefix + key, value]));
}
