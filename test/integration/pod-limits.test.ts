/** What a pod can take of its node has an end: the files that it is lent, processes. */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NamespaceMode } from "../../src/gen/runtime/v1/security_pb.ts";
import { detectCgroups, processes } from "../../src/linux/cgroup.ts";
import { mountsBelow } from "../fixtures/leftovers.ts";
import { type PodConfig, startNode, type TestNode } from "../fixtures/pods.ts";
import { until } from "../fixtures/until.ts";

/** So small that what goes into it by mistake fills it. */
const STATE_MIB = 16;
const PIDS = 64;
let node: TestNode;
let directory: string;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "crib-limits-"));
  mkdirSync(join(directory, "state"));
  command("mount", "-t", "tmpfs", "-o", `size=${STATE_MIB}m`, "tmpfs", join(directory, "state"));
  node = await startNode({ directory, set: { "container.pids_limit": `${PIDS}` } });
});

afterEach(async () => {
  const state = `mount ${join(directory, "state")}`;
  expect((await node.cleaned()).filter((it) => it !== state)).toEqual([]);
});

afterAll(async () => {
  await node?.stop();
  Bun.spawnSync(["umount", "-l", join(directory, "state")]);
  rmSync(directory, { recursive: true });
});

function command(...argv: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(argv, { stderr: "pipe" });
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr}`);
}

const withIpc = (ipc: NamespaceMode): PodConfig => ({
  linux: { securityContext: { namespaceOptions: { pid: 1, ipc } } },
});

for (const [name, ipc] of [
  ["its own IPC namespace", NamespaceMode.POD],
  ["the host's IPC namespace", NamespaceMode.NODE],
] as const) {
  test(`a pod with ${name} fills what it was lent, and no other pod notices`, async () => {
    const pod = await node.pod(withIpc(ipc));
    const container = await node.run(pod);
    await node.sh(container, "echo nameserver 192.0.2.1 > /etc/resolv.conf");
    const second = await node.run(pod);
    expect(await node.sh(second, "cat /etc/resolv.conf")).toBe("nameserver 192.0.2.1\n");
    for (const file of ["resolv.conf", "hostname"]) {
      const fill = `dd if=/dev/zero of=/etc/${file} bs=64k 2>&1 || true`;
      expect(await node.sh(container, fill)).toContain("No space left");
    }
    const other = await node.run(await node.pod());
    await node.sh(other, "echo nameserver 192.0.2.2 > /etc/resolv.conf; echo a > /etc/hostname");
    await node.restart();
    await node.run(await node.pod());
    await node.run(pod);
  });
}

test("a pod costs the host's mount table one mount for its files, besides its namespaces", async () => {
  const before = mountsBelow(directory).length;
  await node.pod();
  const made = mountsBelow(directory).slice(before);
  expect(made.filter((path) => !/\/ns-(net|ipc|uts)$/.test(path))).toHaveLength(1);
});

test("/dev/shm holds 64 MiB, and not more files than that could fill", async () => {
  const container = await node.run(await node.pod());
  const dd = (MiB: number) => `dd if=/dev/zero of=/dev/shm/a bs=1048576 count=${MiB} 2>&1 || true`;
  expect(await node.sh(container, dd(64))).not.toContain("No space left");
  expect(await node.sh(container, dd(65))).toContain("No space left");
  const files = "rm /dev/shm/a; cd /dev/shm; mkdir $(seq 33000) 2>&1 || true";
  expect(await node.sh(container, files)).toContain("No space left");
});

test("a pod of an older Crib, whose files lie in its own directory, goes on and can be removed", async () => {
  const pod = await node.pod();
  const at = join(directory, "state/pods", pod.id);
  for (const file of ["resolv.conf", "hostname"]) {
    command("cp", join(at, "lent", file), join(at, file));
  }
  command("umount", join(at, "lent"));
  rmdirSync(join(at, "lent"));
  mkdirSync(join(at, "shm"));
  command("mount", "-t", "tmpfs", "-o", "mode=1777,size=65536k", "shm", join(at, "shm"));
  await node.restart();
  const container = await node.run(pod);
  expect(await node.sh(container, "echo a > /dev/shm/a; cat /etc/hostname")).not.toBe("");
});

test("a container that forks for ever has its limit of processes; its pod and others go on", async () => {
  const pod = await node.pod();
  // The subshell ends when it can fork no more.
  const script = "(while :; do sleep 1000 & done); exec sleep 2000";
  const bomb = await node.run(pod, { command: ["sh", "-c", script] });
  const alive = () => processes(detectCgroups(), `${node.cgroupParent}/crio-${bomb.id}`);
  await until("all that it may have", async () => (await alive()).length >= PIDS - 1);
  for (const where of [pod, await node.pod()]) {
    expect(await node.sh(await node.run(where), "echo in")).toBe("in\n");
  }
  expect((await alive()).length).toBeLessThanOrEqual(PIDS);
  await node.runtime.stopContainer({ containerId: bomb.id, timeout: 0n });
  expect((await node.status(bomb)).exitCode).toBe(137);
});
