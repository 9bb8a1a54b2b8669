/** A kubelet over a longer time: metrics, log rotation, garbage collection. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { Kubelet, shell, stay } from "./kubelet.ts";
import { expectMetrics } from "./metrics.ts";
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

test("the kubelet's metrics show a pod by its names, also after a kill -9 and a restart of Crib", async () => {
  const work = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done";
  kubelet.apply("busy", `dd if=/dev/zero of=/big bs=1M count=5; ${work}; ${stay}`);
  await kubelet.ready("busy");
  const expected = { name: "busy", image: busybox, writtenBytes: 5 << 20 };
  await expectMetrics(kubelet, expected);
  await kubelet.crib.kill();
  await expectMetrics(kubelet, expected);
  await kubelet.crib.restart();
  await expectMetrics(kubelet, expected);
  // One that comes after: cAdvisor asks for Crib only once, when the kubelet starts.
  kubelet.apply("later", `dd if=/dev/zero of=/big bs=1M count=2; ${work}; ${stay}`);
  await kubelet.ready("later");
  await expectMetrics(kubelet, { name: "later", image: busybox, writtenBytes: 2 << 20 });
  await kubelet.remove("later");
  await kubelet.remove("busy");
}, 900_000);

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
