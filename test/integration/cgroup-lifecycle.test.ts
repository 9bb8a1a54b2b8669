/** Real cgroups: those of this host and, on a hybrid one, its v2 tree as if it were a v2 host. */
import { afterEach, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync } from "node:fs";
import {
  addProcess,
  availableControllers,
  type CgroupHost,
  cgroupDirectory,
  cgroupExists,
  cgroupOf,
  createCgroup,
  detectCgroups,
  killAll,
  processes,
  removeCgroup,
} from "../../src/linux/cgroup.ts";
import { until } from "../fixtures/until.ts";

const mountinfo = readFileSync("/proc/self/mountinfo", "utf8");
const unifiedLine = mountinfo.split("\n").find((line) => line.includes(" - cgroup2 "));
const hosts = new Map<string, CgroupHost>([["this host", detectCgroups(mountinfo)]]);
if (unifiedLine !== undefined) hosts.set("the v2 tree", detectCgroups(unifiedLine));

const top = `/crib-test-${process.pid}`;
const children: Bun.Subprocess[] = [];

/** A process that stays until it is killed. */
function spawnSleeper(script = "exec sleep 300"): Bun.Subprocess {
  const child = Bun.spawn(["sh", "-c", script], { stdio: ["ignore", "ignore", "ignore"] });
  children.push(child);
  return child;
}

describe.each([...hosts])("on %s", (_, host) => {
  afterEach(async () => {
    for (const child of children.splice(0)) child.kill("SIGKILL");
    await killAll(host, top, 5_000);
    await removeCgroup(host, top);
  });

  test("a cgroup is made in all trees, takes a process and shows it", async () => {
    const path = `${top}/pod/crio-1`;
    createCgroup(host, path);
    createCgroup(host, path);
    const child = spawnSleeper();
    addProcess(host, path, child.pid);
    expect(processes(host, path)).toEqual([child.pid]);
    expect(processes(host, top)).toEqual([child.pid]);
    for (const controller of host.controllers.keys()) {
      expect(cgroupOf(host, child.pid, controller)).toBe(path);
    }
    expect(availableControllers(host, path).sort()).toEqual([...host.controllers.keys()].sort());
  });

  test("killAll ends processes that ignore SIGTERM and fork, in child cgroups too", async () => {
    createCgroup(host, `${top}/a/b`);
    createCgroup(host, `${top}/a/c`);
    const stubborn = spawnSleeper("trap '' TERM; while :; do sleep 0.01; done");
    const other = spawnSleeper();
    addProcess(host, `${top}/a/b`, stubborn.pid);
    addProcess(host, `${top}/a/c`, other.pid);
    await killAll(host, `${top}/a`, 5_000);
    expect(processes(host, top)).toEqual([]);
    await Promise.all([stubborn.exited, other.exited]);
    expect([stubborn.signalCode, other.signalCode]).toEqual(["SIGKILL", "SIGKILL"]);
  });

  test("a cgroup tree is removed from the bottom up, also what others made in it", async () => {
    createCgroup(host, `${top}/a/b`);
    for (const tree of host.hierarchies) {
      mkdirSync(`${tree.mountPoint}${top}/a/b/made-by-a-container`, { recursive: true });
    }
    await removeCgroup(host, `${top}/a`);
    expect(cgroupExists(host, `${top}/a`)).toBe(false);
    expect(cgroupExists(host, top)).toBe(true);
  });

  test("removal waits for a process that is about to end", async () => {
    createCgroup(host, `${top}/a`);
    const child = spawnSleeper();
    addProcess(host, `${top}/a`, child.pid);
    const removed = removeCgroup(host, `${top}/a`, 10_000);
    await Bun.sleep(20);
    expect(cgroupExists(host, `${top}/a`)).toBe(true);
    child.kill("SIGKILL");
    await removed;
    expect(cgroupExists(host, `${top}/a`)).toBe(false);
  });

  test("removal of a cgroup that stays busy fails with EBUSY", async () => {
    createCgroup(host, `${top}/a`);
    addProcess(host, `${top}/a`, spawnSleeper().pid);
    await expect(removeCgroup(host, `${top}/a`, 20)).rejects.toMatchObject({ code: "EBUSY" });
  });

  test("adding a process that is gone, or to a cgroup that is not there, says so", async () => {
    createCgroup(host, `${top}/a`);
    const child = spawnSleeper("exit 0");
    await child.exited;
    expect(() => addProcess(host, `${top}/a`, child.pid)).toThrow(/ESRCH/);
    expect(() => addProcess(host, `${top}/missing`, process.pid)).toThrow(/ENOENT/);
  });
});

describe("cgroup v1", () => {
  test.if(hosts.get("this host")?.version === 1)(
    "a frozen process is killed all the same",
    async () => {
      const host = detectCgroups();
      const path = `${top}/frozen`;
      createCgroup(host, path);
      try {
        const child = spawnSleeper();
        addProcess(host, path, child.pid);
        const file = `${cgroupDirectory(host, "freezer", path)}/freezer.state`;
        await Bun.write(file, "FROZEN");
        await until("frozen", () => readFileSync(file, "utf8").trim() === "FROZEN");
        await killAll(host, path, 5_000);
        expect(processes(host, path)).toEqual([]);
      } finally {
        await killAll(host, path, 5_000);
        await removeCgroup(host, top);
      }
    },
  );
});

describe("cgroup v2", () => {
  test.if(hosts.has("the v2 tree"))("a cgroup with children takes no process", async () => {
    const host = hosts.get("the v2 tree") ?? detectCgroups();
    createCgroup(host, `${top}/a/b`);
    try {
      expect(() => addProcess(host, `${top}/a`, process.pid)).toThrow(/has child cgroups/);
    } finally {
      await removeCgroup(host, top);
    }
  });
});

test("who quickens moves stays in the cgroups where it is", async () => {
  const host = detectCgroups(mountinfo);
  const path = `${top}/quick`;
  const script = `
    import { detectCgroups } from "${import.meta.dir}/../../src/linux/cgroup.ts";
    import { quickenMoves } from "${import.meta.dir}/../../src/linux/cgroup-moves.ts";
    await Bun.stdin.text();
    quickenMoves(detectCgroups());
    await Bun.sleep(100);
    console.log(await Bun.file("/proc/self/cgroup").text());`;
  const child = Bun.spawn([process.execPath, "-e", script], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  createCgroup(host, path);
  try {
    addProcess(host, path, child.pid);
    child.stdin.end();
    const lines = (await new Response(child.stdout).text()).trim().split("\n");
    expect(lines.filter((line) => line.endsWith(`:${path}`)).length).toBeGreaterThan(0);
    expect(await child.exited).toBe(0);
  } finally {
    child.kill("SIGKILL");
    await removeCgroup(host, top);
  }
});
