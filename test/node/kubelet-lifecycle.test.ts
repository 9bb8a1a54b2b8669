/** A kubelet with static pods: starting, ending, crashing, and what is told of it. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { cgroupOf } from "./cri.ts";
import {
  type ContainerStatus,
  hostDirectory,
  Kubelet,
  readHostFile,
  shell,
  stay,
} from "./kubelet.ts";
import { cgroupFile, cleaned, sh, unitState, until } from "./node.ts";

let kubelet: Kubelet;

beforeAll(async () => {
  kubelet = await Kubelet.start();
});

afterAll(async () => {
  await kubelet.stop();
});

/** A volume and its mount: a directory of the node, for what the pod has to tell. */
function tell(name: string) {
  const volumes = [{ name: "tell", hostPath: { path: hostDirectory(name) } }];
  return { volumes, mount: { volumeMounts: [{ name: "tell", mountPath: "/tell" }] } };
}

test("a pod runs and is ready", async () => {
  kubelet.apply("simple", `echo hello; ${stay}`);
  const status = await kubelet.ready("simple");
  expect(status.phase).toBe("Running");
  expect(status.podIP).toMatch(/^10\.88\./);
});

test("its log comes through the kubelet, with tail and time stamps", async () => {
  expect(await kubelet.logs("simple")).toBe("hello\n");
  kubelet.apply("lines", "seq 1 50");
  await kubelet.reaches(
    "lines",
    "has ended",
    (it) => it.containerStatuses?.[0]?.lastState.terminated,
  );
  expect(await kubelet.logs("lines", "?tailLines=2")).toBe("49\n50\n");
  expect(await kubelet.logs("lines", "?tailLines=1&timestamps=true")).toMatch(/^\d{4}-\S+ 50\n$/);
  await kubelet.remove("lines");
});

test("its container is in a scope of the pod's slice", async () => {
  const { items } = await kubelet.crib.runtime.listPodSandbox({});
  const { containers } = await kubelet.crib.runtime.listContainers({});
  const [{ id, metadata }] = items as [(typeof items)[0]];
  const answer = await kubelet.crib.runtime.containerStatus({
    containerId: containers[0]?.id ?? "",
    verbose: true,
  });
  const { pid } = JSON.parse(answer.info.info ?? "{}");
  const uid = metadata?.uid.replaceAll("-", "_");
  const slice = `/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod${uid}.slice`;
  expect(await cgroupOf(pid)).toStartWith(`${slice}/crio-${containers[0]?.id}.scope`);
  expect(cgroupFile(`${slice}/crio-${id}.scope`, "cgroup.procs")).not.toBe("");
});

test("a pod that is taken away ends by SIGTERM and is gone", async () => {
  const { volumes, mount } = tell("term");
  const script = "trap 'echo TERM >/tell/signal; exit 0' TERM; sleep 100000 & wait";
  kubelet.apply("term", { containers: [shell(script, mount)], volumes });
  await kubelet.ready("term");
  await kubelet.remove("term");
  expect(readHostFile("term", "signal")).toBe("TERM");
});

test("a container that ignores SIGTERM is killed after its grace period", async () => {
  const { volumes, mount } = tell("stubborn");
  const script = "trap 'echo TERM >>/tell/signal' TERM; while :; do sleep 1; done";
  kubelet.apply("stubborn", {
    containers: [shell(script, mount)],
    volumes,
    terminationGracePeriodSeconds: 3,
  });
  await kubelet.ready("stubborn");
  await kubelet.remove("stubborn");
  expect(readHostFile("stubborn", "signal")).toContain("TERM");
});

test("a container that crashes is started again, and its exit code and reason are told", async () => {
  kubelet.apply("crash", "echo attempt; exit 42");
  const status = await kubelet.reaches(
    "crash",
    "is backing off",
    (it) =>
      (it.containerStatuses?.[0]?.restartCount ?? 0) >= 1 &&
      it.containerStatuses?.[0]?.state.waiting?.reason === "CrashLoopBackOff",
  );
  const last = status.containerStatuses?.[0]?.lastState.terminated;
  expect([last?.exitCode, last?.reason]).toEqual([42, "Error"]);
  expect(await kubelet.logs("crash", "?previous=true")).toBe("attempt\n");
  await kubelet.remove("crash");
});

test("a container that ends well is Completed, its pod Succeeded", async () => {
  kubelet.apply("done", { restartPolicy: "Never", containers: [shell("exit 0")] });
  const { exitCode, reason } = await kubelet.ends("done");
  expect([exitCode, reason]).toEqual([0, "Completed"]);
  await kubelet.reaches("done", "has succeeded", (it) => it.phase === "Succeeded");
  await kubelet.remove("done");
});

test("a container that is killed by a signal has 128 and the signal", async () => {
  // "$$" is how Kubernetes writes "$".
  kubelet.apply("signal", {
    restartPolicy: "Never",
    containers: [shell("sh -c 'kill -9 $$$$'; exit $?")],
  });
  expect((await kubelet.ends("signal")).exitCode).toBe(137);
  await kubelet.remove("signal");
});

test("init containers run one after the other before the pod's own", async () => {
  const { volumes, mount } = tell("init");
  const step = (name: string) => shell(`sleep 1; echo ${name} >>/tell/order`, { ...mount, name });
  kubelet.apply("init", {
    initContainers: [step("one"), step("two")],
    containers: [shell(`echo main >>/tell/order; ${stay}`, mount)],
    volumes,
  });
  await kubelet.ready("init");
  expect(readHostFile("init", "order")).toBe("one\ntwo\nmain");
  await kubelet.remove("init");
});

test("an init container that fails is told and keeps the others from starting", async () => {
  kubelet.apply("initfail", {
    restartPolicy: "Never",
    initContainers: [shell("exit 9", { name: "init" })],
    containers: [shell("echo never")],
  });
  const status = await kubelet.reaches("initfail", "has failed", (it) => it.phase === "Failed");
  expect(status.initContainerStatuses?.[0]?.state.terminated?.exitCode).toBe(9);
  expect(status.containerStatuses?.[0]?.state.waiting?.reason).toBe("PodInitializing");
  await kubelet.remove("initfail");
});

test("a sidecar starts before the pod's own container and ends after it", async () => {
  const { volumes, mount } = tell("sidecar");
  const noted = (name: string) =>
    `echo ${name} >>/tell/order; trap 'echo ${name} ends >>/tell/order; exit 0' TERM; sleep 100000 & wait`;
  kubelet.apply("sidecar", {
    initContainers: [shell(noted("side"), { ...mount, name: "side", restartPolicy: "Always" })],
    containers: [shell(noted("main"), mount)],
    volumes,
  });
  await kubelet.ready("sidecar");
  await kubelet.remove("sidecar");
  expect(readHostFile("sidecar", "order").split("\n")).toEqual([
    "side",
    "main",
    "main ends",
    "side ends",
  ]);
});

test("memory over the limit is OOMKilled", async () => {
  kubelet.apply("oom", {
    restartPolicy: "Never",
    containers: [
      shell("dd if=/dev/zero of=/dev/null bs=100M count=5", {
        resources: { limits: { memory: "20Mi" } },
      }),
    ],
  });
  const { reason, exitCode } = await kubelet.ends("oom");
  expect([reason, exitCode]).toEqual(["OOMKilled", 137]);
  await kubelet.remove("oom");
});

test("limits are in the cgroup and in the status", async () => {
  kubelet.apply("limits", {
    containers: [
      shell(`cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max; ${stay}`, {
        resources: { limits: { memory: "64Mi", cpu: "500m" } },
      }),
    ],
  });
  const status = await kubelet.ready("limits");
  expect(await kubelet.logs("limits")).toBe("67108864\n50000 100000\n");
  expect(status.containerStatuses?.[0]?.resources?.limits).toMatchObject({
    cpu: "500m",
    memory: "64Mi",
  });
  await kubelet.remove("limits");
});

test("the termination message comes from its file, and from the log where that is asked for", async () => {
  kubelet.apply("message", {
    restartPolicy: "Never",
    containers: [shell("echo from the file >/dev/termination-log; exit 1")],
  });
  expect((await kubelet.ends("message")).message).toBe("from the file\n");
  await kubelet.remove("message");
  kubelet.apply("logmessage", {
    restartPolicy: "Never",
    containers: [
      shell("echo from the log; exit 1", { terminationMessagePolicy: "FallbackToLogsOnError" }),
    ],
  });
  expect((await kubelet.ends("logmessage")).message).toBe("from the log\n");
  await kubelet.remove("logmessage");
});

test("postStart runs after the start, preStop before SIGTERM", async () => {
  const { volumes, mount } = tell("hooks");
  const hook = (text: string) => ({
    exec: { command: ["sh", "-c", `echo ${text} >>/tell/order`] },
  });
  const script = "trap 'echo TERM >>/tell/order; exit 0' TERM; sleep 100000 & wait";
  kubelet.apply("hooks", {
    containers: [
      shell(script, { ...mount, lifecycle: { postStart: hook("post"), preStop: hook("pre") } }),
    ],
    volumes,
  });
  await kubelet.ready("hooks");
  await kubelet.remove("hooks");
  expect(readHostFile("hooks", "order")).toBe("post\npre\nTERM");
});

test("a missing image is told by its name", async () => {
  const image = "registry.k8s.io/no-such-image:1";
  kubelet.apply("noimage", { containers: [{ name: "main", image }] });
  const status = await kubelet.reaches("noimage", "says why", (it) =>
    it.containerStatuses?.[0]?.state.waiting?.message?.includes(image),
  );
  const { waiting } = status.containerStatuses?.[0]?.state ?? {};
  expect(waiting?.reason).toMatch(/^(ErrImagePull|ImagePullBackOff)$/);
  expect(waiting?.message).toMatch(/not found|unknown|404/i);
  await kubelet.remove("noimage");
});

test("a missing command is told by its name", async () => {
  kubelet.apply("nocommand", {
    restartPolicy: "Never",
    containers: [shell("", { command: ["/no/such/program"] })],
  });
  const told = ({ state }: ContainerStatus) => state.waiting ?? state.terminated;
  const status = await kubelet.reaches("nocommand", "says why", ({ containerStatuses }) =>
    containerStatuses?.some((it) => told(it)?.message?.includes("/no/such/program")),
  );
  // CRI-O fails the creation, containerd the start.
  const reasons = ["CreateContainerError", "RunContainerError", "StartError"];
  for (const it of status.containerStatuses ?? [])
    expect(reasons).toContain(told(it)?.reason ?? "");
  await kubelet.remove("nocommand");
});

test("ten pods at once", async () => {
  const names = Array.from({ length: 10 }, (_, index) => `many${index}`);
  for (const name of names) kubelet.apply(name, stay);
  const all = await Promise.all(names.map((name) => kubelet.ready(name, 280_000)));
  expect(new Set(all.map((it) => it.podIP)).size).toBe(10);
  await Promise.all(names.map((name) => kubelet.remove(name)));
});

test("kill -9 of the daemon and a restart do not restart containers", async () => {
  await kubelet.ready("simple");
  await kubelet.crib.kill();
  kubelet.apply("after", stay);
  await kubelet.ready("after");
  await kubelet.crib.restart();
  await kubelet.remove("after");
  const status = await kubelet.ready("simple");
  expect(status.containerStatuses?.map((it) => it.restartCount)).toEqual([0]);
});

test("a container that ends while the daemon is down: its exit code and reason are told afterwards", async () => {
  const { volumes, mount } = tell("down");
  kubelet.apply("down", {
    restartPolicy: "Never",
    containers: [shell("until [ -e /tell/go ]; do sleep 0.2; done; exit 5", mount)],
    volumes,
  });
  const status = await kubelet.ready("down");
  const id = status.containerStatuses?.[0]?.containerID?.replace(/^.*:\/\//, "") ?? "";
  expect(unitState(`crio-${id}.scope`)).toBe("active");
  await kubelet.crib.stop();
  writeFileSync(`${hostDirectory("down")}/go`, "");
  await until("the scope's end", () => unitState(`crio-${id}.scope`) !== "active");
  sh("systemctl", "start", "crib");
  const { exitCode, reason } = await kubelet.ends("down");
  expect([exitCode, reason]).toEqual([5, "Error"]);
  await kubelet.remove("down");
});

test("nothing is left when all pods are gone", async () => {
  await kubelet.stop();
  expect(await cleaned()).toEqual([]);
});
