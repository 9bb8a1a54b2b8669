/** The namespaces that a monitor makes and pins. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
} from "node:fs";
import { until } from "../fixtures/until.ts";
import { buildMonitor, DEADLINE_MS, parseLog, readText, TestPod } from "./monitor-harness.ts";

let binary: string;
let pod: TestPod;

beforeAll(async () => {
  binary = buildMonitor();
  pod = await TestPod.start(
    binary,
    {
      hostname: "the-pod",
      sysctls: { "net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1" },
      oomScoreAdj: -999,
    },
    ["net", "ipc", "uts", "pid"],
  );
});
afterAll(async () => pod.dispose());

/** The inode of a pinned namespace or of a process's. */
const inode = (path: string) => statSync(path).ino;
const inside = (...command: string[]) => {
  const pins = ["--net", "--ipc", "--uts"].map(
    (flag) => `${flag}=${pod.path(`${flag.slice(2)}.ns`)}`,
  );
  return spawnSync("nsenter", [...pins, ...command], { encoding: "utf8" }).stdout;
};

test("each is new and pinned where it was asked for", () => {
  for (const kind of ["net", "ipc", "uts"]) {
    expect(inode(pod.path(`${kind}.ns`))).not.toBe(inode(`/proc/self/ns/${kind}`));
    expect(inode(pod.path(`${kind}.ns`))).toBe(inode(`/proc/${pod.monitor.pid}/ns/${kind}`));
  }
  expect(inode(pod.path("pid.ns"))).toBe(inode(`/proc/${pod.monitor.pausePid}/ns/pid`));
  expect(inode(`/proc/${pod.monitor.pid}/ns/mnt`)).toBe(inode("/proc/self/ns/mnt"));
  expect(inode(`/proc/${pod.monitor.pid}/ns/pid`)).toBe(inode("/proc/self/ns/pid"));
});

test("lo is up, the hostname and the sysctls are set", () => {
  expect(inside("cat", "/sys/class/net/lo/flags").trim()).not.toBe("0x8");
  const flags = inside("busybox", "ip", "link", "show", "lo");
  expect(flags).toContain("UP");
  expect(inside("hostname").trim()).toBe("the-pod");
  expect(inside("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start").trim()).toBe("80");
  expect(inside("cat", "/proc/sys/kernel/shm_rmid_forced").trim()).toBe("1");
});

test("the monitor is a quiet process of its own", () => {
  const { pid, pausePid } = pod.monitor;
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  expect(status).toMatch(/^Name:\tcrib-monitor$/m);
  expect(status).toMatch(/^Threads:\t1$/m);
  expect(readFileSync(`/proc/${pid}/environ`, "utf8")).toBe("");
  expect(readlinkSync(`/proc/${pid}/cwd`)).toBe("/");
  for (const fd of [0, 1, 2]) expect(readlinkSync(`/proc/${pid}/fd/${fd}`)).toBe("/dev/null");
  expect(statSync(`${pod.directory}/monitor.sock`).mode & 0o777).toBe(0o600);
  expect(readFileSync(`/proc/${pausePid}/status`, "utf8")).toMatch(/^Name:\tcrib-pause$/m);
  expect(readFileSync(`/proc/${pausePid}/cmdline`, "utf8")).toBe("crib-pause\0testpod\0");
});

test("the pause has nothing that a container which sees it could use", () => {
  const pause = `/proc/${pod.monitor.pausePid}`;
  const status = readFileSync(`${pause}/status`, "utf8");
  expect(status).toMatch(/^Uid:\t65535\t65535\t65535\t65535$/m);
  expect(status).toMatch(/^Gid:\t65535\t65535\t65535\t65535$/m);
  expect(status).toMatch(/^Groups:\s*$/m);
  for (const set of ["CapInh", "CapPrm", "CapEff", "CapAmb"]) {
    expect(status).toMatch(new RegExp(`^${set}:\\t0+$`, "m"));
  }
  expect(status).toMatch(/^NoNewPrivs:\t1$/m);
  const mounts = readFileSync(`${pause}/mountinfo`, "utf8").trim().split("\n");
  expect(mounts.map((line) => line.split(" ").slice(4, 6).join(" "))).toEqual([
    expect.stringMatching(/^\/ ro,/),
  ]);
  expect(readdirSync(`${pause}/root/`)).toEqual([]);
  expect(readdirSync(`${pause}/fd`).sort()).toEqual(["0", "1", "2"]);
  expect(() => openSync(`${pause}/exe`, "w")).toThrow("EROFS"); // not ETXTBSY, which passes
});

test("containers share the pod's PID namespace, and the pause reaps their orphans", async () => {
  const id = await pod.run({
    args: ["sh", "-c", "(sleep 0.2 & ) ; sleep 1; ps -o pid,stat,args"],
    namespaces: [{ type: "pid", path: pod.path("pid.ns") }, { type: "mount" }],
  });
  expect(await pod.exited(id)).toMatchObject({ exitCode: 0 });
  const lines = parseLog(pod.log(id)).map((record) => record.content);
  expect(lines.some((line) => /^\s*1\s.*crib-pause/.test(line))).toBe(true);
  expect(lines.some((line) => /\sZ/.test(line))).toBe(false);
});

test("no signal from a container ends the pause; its end is told, at once and to later daemons", async () => {
  const other = await TestPod.start(binary, {}, ["pid"]);
  try {
    const { pausePid = 0 } = other.monitor;
    const run = (...args: string[]) =>
      other.run({
        args,
        namespaces: [{ type: "pid", path: other.path("pid.ns") }, { type: "mount" }],
      });
    // As root of the host, so with all capabilities, but from within the namespace.
    const signals = "for n in $(seq 1 64); do kill -$n 1; done 2>/dev/null";
    spawnSync("nsenter", ["--target", `${pausePid}`, "--pid", "sh", "-c", signals]);
    expect(await other.exited(await run("true"))).toMatchObject({ exitCode: 0 });
    const stays = await run("sleep", "1000");
    process.kill(pausePid, "SIGKILL");
    await other.monitor.pauseEnded;
    expect(other.monitor.pausePid).toBeUndefined();
    expect(await other.exited(stays)).toMatchObject({ exitCode: 137, signal: 9 });
    await other.adopt();
    await other.monitor.pauseEnded;
    expect(other.monitor.pausePid).toBeUndefined();
  } finally {
    await other.dispose();
  }
});

test("its PID namespace ends with the monitor, however that ends", async () => {
  const other = await TestPod.start(binary, {}, ["pid"]);
  try {
    const id = await other.run({
      args: ["sleep", "1000"],
      namespaces: [{ type: "pid", path: other.path("pid.ns") }, { type: "mount" }],
    });
    const { pausePid } = other.monitor;
    const [record] = await other.monitor.list();
    expect(record?.id).toBe(id);
    process.kill(other.monitor.pid, "SIGKILL");
    await other.monitor.closed;
    const dead = (pid: number | undefined) => {
      try {
        return /^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
      } catch {
        return true;
      }
    };
    await until("the pause is gone", () => dead(pausePid));
    await until("the container is gone", () => dead(record?.pid));
  } finally {
    await other.dispose();
  }
});

test("shutdown ends monitor and pause and leaves the pins to the caller", async () => {
  const other = await TestPod.start(binary, {}, ["net", "pid"]);
  const { pid, pausePid } = other.monitor;
  await other.monitor.shutdown();
  await until(
    "both are gone",
    () => !existsSync(`/proc/${pid}`) && !existsSync(`/proc/${pausePid}`),
  );
  expect(existsSync(`${other.directory}/monitor.sock`)).toBe(false);
  for (const pin of other.pins) expect(spawnSync("umount", [pin]).status).toBe(0);
  await other.dispose();
});

test("what cannot be set up is named, and nothing stays behind", async () => {
  const before = readFileSync("/proc/self/mountinfo", "utf8");
  const attempt = (extra: object, namespaces: Array<"net" | "uts" | "pid">) =>
    TestPod.start(binary, { deadlineMs: DEADLINE_MS, ...extra }, namespaces);
  await expect(attempt({ sysctls: { "kernel.panic": "1" } }, ["net"])).rejects.toThrow(
    "pod monitor of testpod: sysctl kernel.panic: not one of the pod's own namespaces",
  );
  const outside = { "net.//.net.ipv4.ip_forward": "1" };
  await expect(attempt({ sysctls: outside }, ["net"])).rejects.toThrow("not one of");
  await expect(attempt({ sysctls: { "net.ipv4.ip_forward": "1" } }, [])).rejects.toThrow(
    "sysctl net.ipv4.ip_forward: not one of",
  );
  await expect(attempt({ sysctls: { "net.no.such": "1" } }, ["net", "pid"])).rejects.toThrow(
    "sysctl net.no.such=1: No such file or directory",
  );
  await expect(attempt({ hostname: "x" }, [])).rejects.toThrow("hostname in the host's UTS");
  await expect(attempt({ directory: "/proc/version" }, [])).rejects.toThrow();
  await expect(attempt({ binary: "/bin/true" }, [])).rejects.toThrow("ended without a word");
  expect(readFileSync("/proc/self/mountinfo", "utf8")).toBe(before);
});

test("a monitor whose starter could not tell the daemon undoes itself", async () => {
  const directory = pod.path("untold");
  mkdirSync(directory);
  const pin = pod.path("untold-net");
  const args = ["--id", "untold", "--directory", directory, "--net", pin];
  const { status } = spawnSync("sh", ["-c", 'exec "$0" "$@" > /dev/full', binary, ...args]);
  expect(status).toBe(1);
  await until("the pin is gone", () => !existsSync(pin));
  await until("the monitor is gone", () =>
    readdirSync("/proc").every((name) => !readText(`/proc/${name}/cmdline`).includes(directory)),
  );
});
