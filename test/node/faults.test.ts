/** A node whose parts fail: what Crib says of it, and that nothing is half done. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { renameSync, rmSync } from "node:fs";
import { CribError } from "../../src/error.ts";
import { exec, kubeletParent, type Pod, run, runPod, statusOf } from "./cri.ts";
import { busybox, Crib, cleaned, leftovers, unitState, until } from "./node.ts";

let crib: Crib;
let pod: Pod;
let container: string;
let before: string[];

beforeAll(async () => {
  crib = await Crib.start();
  await crib.image.pullImage({ image: { image: busybox } });
  pod = await runPod(crib, { cgroupParent: kubeletParent("systemd", "faults") });
  container = await run(crib, pod);
  await crib.runtime.status({ verbose: true });
  before = leftovers();
});

afterAll(async () => {
  await crib.removeAll();
});

/** What a pod in `parent` is refused with; nothing of it may stay. */
async function refusal(parent = kubeletParent("systemd", "refused")): Promise<CribError> {
  const error: unknown = await runPod(crib, { cgroupParent: parent }).catch((it: unknown) => it);
  if (!(error instanceof CribError)) throw new Error("the pod was made");
  await until("no trace of it", () => leftovers().length === before.length);
  expect(leftovers()).toEqual(before);
  return error;
}

test("a cgroup parent that is no slice is refused with the remedy", async () => {
  const { code, message } = await refusal(kubeletParent("cgroupfs", "refused"));
  expect(code).toBe("InvalidArgument");
  expect(message).toContain('"/kubepods/burstable/podrefused": not a systemd slice');
  expect(message).toContain("set the kubelet's cgroupDriver to systemd");
});

test("without D-Bus pods are refused with the remedy, and those that run live on", async () => {
  const bus = "/run/dbus/system_bus_socket";
  renameSync(bus, `${bus}.away`);
  try {
    const error: unknown = await runPod(crib, {
      cgroupParent: kubeletParent("systemd", "refused"),
    }).catch((it: unknown) => it);
    if (!(error instanceof CribError)) throw new Error("the pod was made");
    expect(error.code).toBe("FailedPrecondition");
    expect(error.message).toContain("cgroup_driver systemd");
    expect(error.message).toContain("start systemd and D-Bus");
    expect(await exec(crib, container, "echo here")).toBe("here");
  } finally {
    renameSync(`${bus}.away`, bus);
  }
  // What could not be taken back without D-Bus is, a moment later.
  await until("no trace of it", () => leftovers().length === before.length);
  expect(leftovers()).toEqual(before);
  const next = await runPod(crib, { cgroupParent: kubeletParent("systemd", "next") });
  await run(crib, next);
  await crib.runtime.stopPodSandbox({ podSandboxId: next.id });
  await crib.runtime.removePodSandbox({ podSandboxId: next.id });
});

test("on a full /run pods are refused with the remedy, and those that run live on", async () => {
  const { startedAt } = await statusOf(crib, container);
  const filler = "/run/crib/filler";
  try {
    const fill = `cat /dev/zero >${filler}; ! echo >${filler}.more`;
    Bun.spawnSync(["sh", "-c", fill], { stderr: "ignore" });
    const { code, message } = await refusal();
    expect(code).toBe("ResourceExhausted");
    expect(message).toContain("/run/crib (crib.state) is full");
  } finally {
    for (const path of [filler, `${filler}.more`]) rmSync(path, { force: true });
  }
  expect(await exec(crib, container, "echo here")).toBe("here");
  expect((await statusOf(crib, container)).startedAt).toBe(startedAt);
  await run(crib, await runPod(crib, { cgroupParent: kubeletParent("systemd", "next") }));
});

test("an OCI runtime that goes is told, and pods that run live on without it", async () => {
  const path = Bun.which("crun") ?? "";
  renameSync(path, `${path}.away`);
  try {
    await crib.restart();
    const { status } = await crib.runtime.status({});
    // runc is there too, and becomes the default.
    expect(status?.conditions.find((it) => it.type === "RuntimeReady")?.status).toBe(true);
    const { info } = await crib.runtime.status({ verbose: true });
    expect(JSON.parse(info.info ?? "{}").defaultHandler).toBe("runc");
    expect((await statusOf(crib, container)).state).toBe(1);
  } finally {
    renameSync(`${path}.away`, path);
  }
  await crib.restart();
  expect(await exec(crib, container, "echo here")).toBe("here");
});

test("nothing is left when the pods are removed", async () => {
  await crib.removeAll();
  expect(unitState("crib")).toBe("active");
  expect(await cleaned()).toEqual([]);
});
