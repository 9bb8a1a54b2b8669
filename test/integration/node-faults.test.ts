/** A node that is not as its configuration says: each fault is told with its remedy, nothing is half done. */
import { afterEach, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { ContainerState } from "../../src/gen/runtime/v1/container_pb.ts";
import {
  type NodeOptions,
  type PodConfig,
  refusal,
  startNode,
  type TestNode,
} from "../fixtures/pods.ts";
import { until } from "../fixtures/until.ts";

let node: TestNode | undefined;
const mounted: string[] = [];

afterEach(async () => {
  try {
    if (node === undefined) return;
    const left = await node.cleaned();
    expect(left.filter((it) => !mounted.some((path) => it === `mount ${path}`))).toEqual([]);
  } finally {
    await node?.stop();
    node = undefined;
    for (const path of mounted.splice(0)) {
      Bun.spawnSync(["umount", "-l", path]);
      rmSync(dirname(path), { recursive: true });
    }
  }
});

async function start(options: NodeOptions = {}): Promise<TestNode> {
  node = await startNode(options);
  return node;
}

const own = { namespaceOptions: { pid: 1 } };
const below = (cgroupParent: string): PodConfig => ({
  linux: { cgroupParent, securityContext: own },
});

/** What is there when the program of the only container runs. */
async function settled(on: TestNode): Promise<string[]> {
  await on.runtime.status({ verbose: true });
  await until("sleep", () => on.leftovers().some((it) => /process \d+ sleep 1000$/.test(it)));
  return on.leftovers();
}

const SLICE = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx.slice";

test("a kubelet with the systemd driver, where Crib has cgroupfs, is told what to set", async () => {
  const on = await start();
  const refused = await refusal(on.pod(below(SLICE)));
  expect(refused.code).toBe("InvalidArgument");
  expect(refused.message).toContain(`cgroup parent "${SLICE}": a systemd slice`);
  expect(refused.message).toContain("set the kubelet's cgroupDriver to cgroupfs");
  expect(on.leftovers()).toEqual([]);
});

test("the systemd driver without systemd: not ready, pods are refused, and the remedy is told", async () => {
  const set = { "runtime.cgroup_driver": "systemd", "runtime.cgroup_parent": "" };
  const on = await start({ set });
  const { status } = await on.runtime.status({});
  const ready = status?.conditions.find(({ type }) => type === "RuntimeReady");
  const remedy = 'start systemd and D-Bus, or set runtime.cgroup_driver = "cgroupfs"';
  expect(ready).toMatchObject({ status: false, message: expect.stringContaining(remedy) });
  const refused = await refusal(on.pod(below(SLICE)));
  expect(refused).toMatchObject({
    code: "FailedPrecondition",
    message: expect.stringContaining(remedy),
  });
  expect(on.leftovers()).toEqual([]);
});

test("a full /run: pods and containers are refused, those that run live on", async () => {
  const directory = mkdtempSync(join(tmpdir(), "crib-full-"));
  const state = join(directory, "state");
  mkdirSync(state);
  const mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", state];
  expect(Bun.spawnSync(mount).exitCode).toBe(0);
  mounted.push(state);
  const on = await start({ directory });
  const pod = await on.pod();
  const command = ["sh", "-c", "trap 'exit 8' TERM; sleep 1000 & wait"];
  const running = await on.run(pod, { command });
  const before = await settled(on);
  const fill = `cat /dev/zero >> ${state}/filler; ! echo > ${state}/filler.more`;
  expect(Bun.spawnSync(["sh", "-c", fill], { stderr: "ignore" }).exitCode).toBe(0);
  for (const refused of [await refusal(on.pod()), await refusal(on.create(pod))]) {
    expect(refused.code).toBe("ResourceExhausted");
    expect(refused.message).toContain(`${state} (crib.state) is full`);
    expect(refused.message).toContain("du -xd1 /run");
    expect(on.leftovers()).toEqual(before);
  }
  expect((await on.status(running)).state).toBe(ContainerState.CONTAINER_RUNNING);
  rmSync(`${state}/filler`);
  rmSync(`${state}/filler.more`);
  await on.runtime.stopContainer({ containerId: running.id, timeout: 20n });
  expect(await on.status(running)).toMatchObject({ exitCode: 8 });
  await on.run(await on.pod());
});

test("an OCI runtime that goes or breaks is told without a restart, and so is its coming back", async () => {
  const on = await start();
  const pod = await on.pod();
  const path = join(on.directory, "bin/runc-gate");
  const ready = async () => {
    const { status } = await on.runtime.status({});
    return status?.conditions.find(({ type }) => type === "RuntimeReady");
  };
  renameSync(path, `${path}.away`);
  expect(await ready()).toMatchObject({ status: false, message: expect.stringContaining(path) });
  for (const refused of [await refusal(on.pod()), await refusal(on.create(pod))]) {
    expect(refused.code).toBe("FailedPrecondition");
    expect(refused.message).toContain(path);
  }
  renameSync(`${path}.away`, path);
  expect(await ready()).toMatchObject({ status: true });
  // What it needs is gone: the program itself is as before.
  const library = join(on.directory, "library");
  writeFileSync(library, "");
  on.script("runc-gate", `[ -e ${library} ] || exit 127\nexec runc "$@"`);
  await on.run(pod);
  rmSync(library);
  expect(await refusal(on.create(pod))).toMatchObject({
    code: "FailedPrecondition",
    message: expect.stringContaining("does not work on this host"),
  });
  expect(await ready()).toMatchObject({ status: false });
  on.writeGates();
  expect(await ready()).toMatchObject({ status: true });
});

// The last one: the tree stays unmounted in this file's namespace.
const memoryTree = "/sys/fs/cgroup/memory";

// On cgroup v2, where no controller can be taken from a host that uses it, test/node/check.test.ts has this.
test.skipIf(!existsSync(memoryTree))(
  "without a controller a limit of it is refused by name, and containers without run",
  async () => {
    expect(Bun.spawnSync(["umount", memoryTree]).exitCode).toBe(0);
    const on = await start();
    const pod = await on.pod();
    const running = await on.run(pod);
    const before = await settled(on);
    const linux = { resources: { memoryLimitInBytes: 67_108_864n }, securityContext: own };
    const refused = await refusal(on.create(pod, { linux }));
    expect(refused.code).toBe("FailedPrecondition");
    expect(refused.message).toContain("linux.resources.memory_limit_in_bytes: 67108864");
    expect(refused.message).toContain('no cgroup controller "memory": "crib check" tells');
    expect(on.leftovers()).toEqual(before);
    expect(await on.sh(running, "echo fine")).toBe("fine\n");
  },
);
