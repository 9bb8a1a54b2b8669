/** In the virtual machine: what the kubelet's /stats/summary and /metrics/cadvisor must tell of a pod. */
import { expect } from "bun:test";
import * as v from "valibot";
import type { Kubelet } from "./kubelet.ts";
import { until } from "./node.ts";

const Bytes = v.object({ usedBytes: v.number() });
const Memory = v.object({ workingSetBytes: v.number() });
// The first sample of cAdvisor may be 0.
const Cpu = v.object({ usageCoreNanoSeconds: v.pipe(v.number(), v.minValue(1)) });

/** A pod of /stats/summary when the kubelet has all figures of it. */
const PodSummary = v.object({
  cpu: Cpu,
  memory: Memory,
  network: v.object({ interfaces: v.array(v.object({ name: v.string(), rxBytes: v.number() })) }),
  "ephemeral-storage": Bytes,
  containers: v.array(
    v.object({ name: v.string(), cpu: Cpu, memory: Memory, rootfs: Bytes, logs: Bytes }),
  ),
});

const Summary = v.object({
  pods: v.array(v.looseObject({ podRef: v.object({ name: v.string() }) })),
});

/** The labels of a line in the text format of Prometheus. */
function labelsOf(line: string): Record<string, string> {
  const pairs = [...line.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)];
  return Object.fromEntries(pairs.map(([, name = "", value = ""]) => [name, value]));
}

interface Expected {
  /** The pod's and its container's name ("main") as the kubelet has them: without "-node". */
  name: string;
  image: string;
  /** What the container has written to its root file system, at least. */
  writtenBytes: number;
}

/** All figures of a pod with one container "main", by its names, in both of the kubelet's answers. */
export async function expectMetrics(kubelet: Kubelet, expected: Expected): Promise<void> {
  await expectSummary(kubelet, expected);
  await expectSeries(kubelet, expected);
}

async function expectSummary(kubelet: Kubelet, { name, writtenBytes }: Expected): Promise<void> {
  let problem = "";
  const pod = await until(
    "all figures of the pod in the summary",
    async () => {
      const text = await kubelet.get("/stats/summary");
      if (text === undefined) return undefined;
      const { pods } = v.parse(Summary, JSON.parse(text));
      const found = v.safeParse(
        PodSummary,
        pods.find((it) => it.podRef.name === `${name}-node`),
      );
      if (found.success && (found.output.containers[0]?.rootfs.usedBytes ?? 0) >= writtenBytes) {
        return found.output;
      }
      problem = found.success ? "rootfs is too small" : JSON.stringify(v.flatten(found.issues));
      return undefined;
    },
    180_000,
  ).catch((error: unknown) => {
    throw new Error(`${error}: ${problem}`);
  });
  expect(pod.memory.workingSetBytes).toBeGreaterThan(0);
  expect(pod.containers.map((it) => it.name)).toEqual(["main"]);
  expect(pod.network.interfaces.map((it) => it.name)).toEqual(["eth0"]);
  expect(pod["ephemeral-storage"].usedBytes).toBeGreaterThanOrEqual(writtenBytes);
}

async function expectSeries(kubelet: Kubelet, { name, image }: Expected): Promise<void> {
  const { items } = await kubelet.crib.runtime.listPodSandbox({
    filter: { state: { state: 0 }, labelSelector: { "io.kubernetes.pod.name": `${name}-node` } },
  });
  const [pod] = items;
  const { containers } = await kubelet.crib.runtime.listContainers({
    filter: { podSandboxId: pod?.id ?? "", state: { state: 1 } },
  });
  const [container] = containers;
  const uid = pod?.metadata?.uid ?? "";
  const slice = `/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod${uid.replaceAll("-", "_")}.slice`;
  const ofPod = { namespace: "default", pod: `${name}-node` };
  const ofContainer = {
    ...ofPod,
    container: "main",
    image,
    name: `k8s_main_${name}-node_default_${uid}_${container?.metadata?.attempt}`,
    id: `${slice}/crio-${container?.id}.scope`,
  };
  const ofNetwork = {
    ...ofPod,
    interface: "eth0",
    name: `k8s_POD_${name}-node_default_${uid}_${pod?.metadata?.attempt}`,
    id: `${slice}/crio-${pod?.id}.scope`,
  };
  const wanted = {
    container_cpu_usage_seconds_total: ofContainer,
    container_memory_working_set_bytes: ofContainer,
    container_network_receive_bytes_total: ofNetwork,
  };
  for (const [metric, labels] of Object.entries(wanted)) {
    const line = await until(
      `${metric} of ${labels.id}`,
      async () =>
        (await kubelet.get("/metrics/cadvisor"))
          ?.split("\n")
          .find((it) => it.startsWith(`${metric}{`) && labelsOf(it).id === labels.id),
      180_000,
    );
    expect(labelsOf(line)).toMatchObject(labels);
  }
}
