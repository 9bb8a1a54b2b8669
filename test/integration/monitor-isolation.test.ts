/** What containers and execs get of the monitor that starts them: nothing. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, readlinkSync, rmdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { detectCgroups } from "../../src/linux/cgroup.ts";
import { readHost } from "../../src/linux/host.ts";
import { type MadeContainer, type MadePod, startNode, type TestNode } from "../fixtures/pods.ts";
import { until } from "../fixtures/until.ts";
import { buildMonitor, read, TestPod } from "./monitor-harness.ts";

let node: TestNode;
let pod: MadePod;

beforeAll(async () => {
  node = await startNode({ env: { CRIB_TEST_SECRET: "leaked", NOTIFY_SOCKET: "/run/nobody" } });
  pod = await node.pod();
});
afterAll(async () => node.stop());

async function pidOf({ id }: MadeContainer): Promise<number> {
  const { info } = await node.runtime.containerStatus({ containerId: id, verbose: true });
  return (JSON.parse(info.info ?? "") as { pid: number }).pid;
}

async function monitorOf({ id }: MadePod): Promise<number> {
  const { info } = await node.runtime.podSandboxStatus({ podSandboxId: id, verbose: true });
  return (JSON.parse(info.info ?? "") as { pid: number }).pid;
}

const status = (text: string, name: string) =>
  new RegExp(`^${name}:\\s*(\\S+)`, "m").exec(text)?.[1];

test("a container has its own environment, three descriptors, no blocked or ignored signals", async () => {
  for (const tty of [false, true]) {
    const container = await node.run(pod, { tty, stdin: tty, command: ["sleep", "1000"] });
    const proc = `/proc/${await pidOf(container)}`;
    // Until then it is the OCI runtime's.
    await until("the program runs", () => readFileSync(`${proc}/comm`, "utf8") === "sleep\n");
    expect(readdirSync(`${proc}/fd`)).toEqual(["0", "1", "2"]);
    const targets = [0, 1, 2].map((fd) =>
      readlinkSync(`${proc}/fd/${fd}`).replace(/[\d[\]:]+$/, ""),
    );
    expect(targets).toEqual(tty ? Array(3).fill("/dev/pts/") : ["/dev/null", "pipe", "pipe"]);
    const env = readFileSync(`${proc}/environ`, "utf8");
    expect(env).not.toMatch(/CRIB|NOTIFY|BUN|DBUS/);
    expect(env.includes("TERM=xterm")).toBe(tty);
    const text = readFileSync(`${proc}/status`, "utf8");
    for (const name of ["SigBlk", "SigIgn"]) expect(status(text, name)).toBe("0".repeat(16));
  }
});

test("an exec has the container's environment and OOM score, and nothing else", async () => {
  const resources = { oomScoreAdj: 987n };
  const security = { namespaceOptions: { pid: 1 } };
  const linux = { resources, securityContext: security };
  const container = await node.run(pod, { linux, envs: [{ key: "OWN", value: Buffer.from("1") }] });
  expect(await node.sh(container, "cat /proc/self/oom_score_adj")).toBe("987\n");
  const env = (await node.sh(container, "cat /proc/self/environ")).split("\0").sort();
  const names = env.map((entry) => entry.split("=")[0]).filter((name) => name !== "");
  expect(names).toEqual(["HOME", "HOSTNAME", "OWN", "PATH", "PWD", "SHLVL"]);
  expect((await node.sh(container, "ls /proc/self/fd")).split("\n")).toEqual([
    "0",
    "1",
    "2",
    "3",
    "",
  ]);
  // Not by a shell: that ignores some signals itself.
  const cmd = ["cat", "/proc/self/status"];
  const { stdout } = await node.runtime.execSync({ containerId: container.id, cmd });
  const text = Buffer.from(stdout).toString();
  for (const name of ["SigBlk", "SigIgn"]) expect(status(text, name)).toBe("0".repeat(16));
});

test("an exec with streams has the same, with and without a terminal", async () => {
  const own = await TestPod.start(buildMonitor());
  try {
    const id = await own.run({ args: ["sleep", "1000"] });
    for (const tty of [false, true]) {
      // The fourth is that of ls itself.
      const live = await own.execLive(id, ["ls", "/proc/self/fd"], {
        stdin: true,
        stdout: true,
        tty,
      });
      expect((await read(live.io)).split(/\s+/)).toEqual(["0", "1", "2", "3", ""]);
      live.close();
    }
  } finally {
    await own.dispose();
  }
});

test("the monitor is out of reach of what is meant for the daemon", async () => {
  const pid = await monitorOf(pod);
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  const [, , group, session] = stat.map(Number);
  expect([group, session]).toEqual([pid, pid]);
  // All but SIGKILL and SIGSTOP, which cannot be, and two that the C library keeps for itself.
  const text = readFileSync(`/proc/${pid}/status`, "utf8");
  const blocked = BigInt(`0x${status(text, "SigBlk")}`);
  for (const signal of [1, 2, 3, 13, 15, 17, 25])
    expect((blocked >> BigInt(signal - 1)) & 1n).toBe(1n);
  expect(status(text, "Threads")).toBe("1");
  const score = Number(readFileSync(`/proc/${pid}/oom_score_adj`, "utf8"));
  expect(score).toBe(readHost(detectCgroups().controllers).oomScoreAdjMin);
});

test("monitors can have their cgroups away from their pods", async () => {
  const parent = `${node.cgroupParent}/monitors`;
  await node.restart({ "monitor.cgroup_parent": parent });
  const other = await node.pod();
  const container = await node.run(other);
  const cgroup = (pid: number) => readFileSync(`/proc/${pid}/cgroup`, "utf8");
  expect(cgroup(await monitorOf(other))).toContain(`${parent}/crio-${other.id}\n`);
  expect(cgroup(await pidOf(container))).toContain(`${node.cgroupParent}/crio-${container.id}\n`);
  await node.restart();
  await node.remove(other);
  for (const tree of ["", ...readdirSync("/sys/fs/cgroup")]) {
    const directory = join("/sys/fs/cgroup", tree, parent);
    if (!existsSync(dirname(directory)) || !existsSync(directory)) continue;
    expect(readdirSync(directory).filter((name) => name.startsWith("crio-"))).toEqual([]);
    rmdirSync(directory);
  }
});
