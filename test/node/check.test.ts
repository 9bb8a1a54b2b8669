/** `crib check` on a node that lacks something: it fails, or warns, with a remedy that works. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import * as v from "valibot";
import { CribError } from "../../src/error.ts";
import { create, exec, kubeletParent, run, runPod } from "./cri.ts";
import { busybox, Crib, cleaned, leftovers, sh } from "./node.ts";

const Report = v.object({
  ok: v.boolean(),
  findings: v.array(
    v.object({
      check: v.string(),
      level: v.picklist(["ok", "warn", "fail"]),
      message: v.string(),
      remedy: v.optional(v.string(), ""),
    }),
  ),
});

let crib: Crib;

beforeAll(async () => {
  crib = await Crib.start();
  await crib.image.pullImage({ image: { image: busybox } });
});

afterAll(async () => {
  await crib.removeAll();
});

/** The findings that are not "ok". Not spawnSync: what it asks may be served by this process. */
async function check(...args: string[]) {
  const child = Bun.spawn(["crib", "check", "--json", ...args], { stdout: "pipe" });
  const { ok, findings } = v.parse(Report, JSON.parse(await new Response(child.stdout).text()));
  expect(await child.exited).toBe(ok ? 0 : 1);
  const failed = findings.filter(({ level }) => level === "fail");
  expect(ok).toBe(failed.length === 0);
  return { failed, find: (name: string) => findings.find((it) => it.check === name) };
}

test("a sysctl that is off fails, and its remedy helps", async () => {
  sh("sysctl", "-qw", "net.ipv4.ip_forward=0");
  const { failed } = await check();
  expect(failed).toMatchObject([
    { check: "ip_forward", message: "off: pods cannot reach other hosts" },
  ]);
  sh("sh", "-c", failed[0]?.remedy ?? "");
  expect((await check()).failed).toEqual([]);
});

test("a module that is not loaded is told, and its remedy helps", async () => {
  sh("sh", "-c", "modprobe -r br_netfilter || true");
  const bridgeFilter = async () => (await check()).find("bridge filter");
  const told = await bridgeFilter();
  expect(told).toMatchObject({
    level: "warn",
    message: expect.stringContaining("br_netfilter is not loaded"),
  });
  sh("sh", "-c", told?.remedy ?? "");
  expect(await bridgeFilter()).toMatchObject({ level: "ok" });
});

test("a directory without plugins and one without a network fail", async () => {
  const noPlugin = await check("--set", 'network.bin_dirs=["/nonexistent"]');
  expect(noPlugin.failed.map((it) => it.check)).toEqual(["CNI"]);
  expect(noPlugin.failed[0]?.message).toContain("bridge, host-local, portmap: no such executable");
  const noNetwork = await check("--set", "network.conf_dir=/nonexistent");
  expect(noNetwork.failed.map((it) => it.check)).toEqual(["CNI"]);
  expect(noNetwork.failed[0]?.remedy).toContain(".conflist");
});

test("a socket that another program has taken fails", async () => {
  const path = "/run/other.sock";
  const server = Bun.serve({ unix: path, fetch: () => new Response("no CRI") });
  try {
    const { failed } = await check("--socket", path);
    expect(failed).toMatchObject([
      {
        check: "socket",
        message: `${path}: another program answers`,
        remedy: "stop it, or set crib.socket",
      },
    ]);
  } finally {
    await server.stop(true);
  }
});

test("a missing controller fails; a limit of it is refused by name, containers without run", async () => {
  const list = "/sys/fs/cgroup/cgroup.controllers";
  const without = "/run/cgroup.controllers";
  writeFileSync(without, readFileSync(list, "utf8").replace("memory ", ""));
  // A controller cannot be taken from a kernel that runs: this is what Crib sees of one without.
  sh("mount", "--bind", without, list);
  try {
    const { failed } = await check();
    expect(failed).toMatchObject([{ check: "controllers", message: "without memory" }]);
    expect(failed[0]?.remedy).toContain("cgroup_enable=memory");
    await crib.restart();
    const pod = await runPod(crib, { cgroupParent: kubeletParent("systemd", "nomemory") });
    const running = await run(crib, pod);
    const before = leftovers();
    const resources = { memoryLimitInBytes: 67_108_864n };
    const error: unknown = await create(crib, pod, { resources }).catch((it: unknown) => it);
    if (!(error instanceof CribError)) throw new Error("it was made");
    expect(error.code).toBe("FailedPrecondition");
    expect(error.message).toContain("linux.resources.memory_limit_in_bytes: 67108864");
    expect(error.message).toContain('no cgroup controller "memory": "crib check" tells');
    expect(leftovers()).toEqual(before);
    expect(await exec(crib, running, "echo fine")).toBe("fine");
  } finally {
    sh("umount", list);
  }
  await crib.restart();
  expect((await check()).failed).toEqual([]);
});

test("nothing is left when the pods are removed", async () => {
  await crib.removeAll();
  expect(await cleaned()).toEqual([]);
});
