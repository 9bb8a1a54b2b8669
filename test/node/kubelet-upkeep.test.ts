/** A kubelet over a longer time: metrics, log rotation, garbage collection. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { Kubelet, shell, stay } from "./kubelet.ts";
import { busybox, cleaned, nginx, until } from "./node.ts";

let kubelet: Kubelet;

beforeAll(async () => {
  kubelet = await Kubelet.start({
    containerLogMaxSize: "20Ki",
    containerLogMaxFiles: 100,
    containerLogMonitorInterval: "3s",
    imageMinimumGCAge: "1s",
    imageMaximumGCAge: "2s",
  });
});

afterAll(async () => {
  await kubelet.stop();
});

/** All lines of a container's log and its rotated files, oldest first. */
function wholeLog(name: string): string[] {
  const pod =
    readdirSync("/var/log/pods").find((it) => it.startsWith(`default_${name}-node_`)) ?? "";
  const directory = join("/var/log/pods", pod, "main");
  const rank = (file: string) => (file === "0.log" ? "1" : `0${file}`);
  return readdirSync(directory)
    .sort((a, b) => (rank(a) < rank(b) ? -1 : 1))
    .flatMap((file) => {
      const bytes = readFileSync(join(directory, file));
      const text = file.endsWith(".gz") ? gunzipSync(bytes).toString() : bytes.toString();
      return text.split("\n").filter(Boolean);
    });
}

test("the summary shows the pod's CPU, memory and network", async () => {
  kubelet.apply("busy", `i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; ${stay}`);
  await kubelet.ready("busy");
  interface Summary {
    pods: Array<{
      podRef: { name: string };
      cpu?: { usageCoreNanoSeconds?: number };
      memory?: { workingSetBytes?: number };
      network?: { interfaces?: Array<{ name: string; rxBytes?: number }> };
      containers: Array<{ name: string; cpu?: object; memory?: { workingSetBytes?: number } }>;
    }>;
  }
  const pod = await until("figures of the pod", async () => {
    const summary = JSON.parse((await kubelet.get("/stats/summary")) ?? "{}") as Partial<Summary>;
    const found = summary.pods?.find((it) => it.podRef.name === "busy-node");
    return found?.containers[0]?.memory?.workingSetBytes !== undefined &&
      found.network !== undefined
      ? found
      : undefined;
  });
  expect(pod.cpu?.usageCoreNanoSeconds).toBeGreaterThan(0);
  expect(pod.memory?.workingSetBytes).toBeGreaterThan(0);
  expect(pod.containers.map((it) => it.name)).toEqual(["main"]);
  expect(pod.network?.interfaces?.map((it) => it.name)).toEqual(["eth0"]);
});

test("cAdvisor's metrics carry the names of pod, namespace and container", async () => {
  const line = (metric: string, container: string) =>
    until(`${metric} of the pod`, async () =>
      (await kubelet.get("/metrics/cadvisor"))
        ?.split("\n")
        .find(
          (it) =>
            it.startsWith(`${metric}{`) &&
            it.includes('namespace="default"') &&
            it.includes('pod="busy-node"') &&
            it.includes(`container="${container}"`),
        ),
    );
  await line("container_cpu_usage_seconds_total", "main");
  await line("container_memory_working_set_bytes", "main");
  const network = await until("the pod's network", async () =>
    (await kubelet.get("/metrics/cadvisor"))
      ?.split("\n")
      .find((it) => /^container_network_receive_bytes_total\{.*pod="busy-node"/.test(it)),
  );
  expect(network).toContain('interface="eth0"');
  await kubelet.remove("busy");
});

test("a log that the kubelet rotates loses and doubles no line", async () => {
  kubelet.apply("chatty", {
    restartPolicy: "Never",
    containers: [
      shell(
        "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo line $i; [ $((i % 20)) = 0 ] && usleep 100000; done",
      ),
    ],
  });
  await kubelet.ends("chatty");
  const numbers = wholeLog("chatty").map((it) => Number(it.split(" ").at(-1)));
  const directory =
    readdirSync("/var/log/pods").find((it) => it.startsWith("default_chatty")) ?? "";
  expect(readdirSync(join("/var/log/pods", directory, "main")).length).toBeGreaterThan(2);
  expect(numbers).toEqual(Array.from({ length: 4000 }, (_, index) => index + 1));
  await kubelet.remove("chatty");
});

test("dead containers of a crashing pod are collected", async () => {
  kubelet.apply("dying", "exit 1");
  await kubelet.reaches(
    "dying",
    "has died three times",
    (it) => (it.containerStatuses?.[0]?.restartCount ?? 0) >= 3,
    280_000,
  );
  const dead = async () =>
    (await kubelet.crib.runtime.listContainers({})).containers.filter(
      (it) => it.metadata?.name === "main",
    );
  await until("at most two of its containers", async () => (await dead()).length <= 2, 200_000);
  await kubelet.remove("dying");
});

test("an image that nobody uses is collected, one that a pod runs from stays", async () => {
  kubelet.apply("uses", stay);
  await kubelet.ready("uses");
  await kubelet.crib.image.pullImage({ image: { image: nginx } });
  const isThere = async (image: string) =>
    (await kubelet.crib.image.imageStatus({ image: { image } })).image !== undefined;
  // The kubelet looks every five minutes.
  await until("the image's end", async () => !(await isThere(nginx)), 600_000);
  expect(await isThere(busybox)).toBe(true);
  const status = await kubelet.ready("uses");
  expect(status.containerStatuses?.map((it) => it.restartCount)).toEqual([0]);
  await kubelet.remove("uses");
}, 700_000);

test("nothing is left when all pods are gone", async () => {
  await kubelet.stop();
  expect(await cleaned()).toEqual([]);
});
