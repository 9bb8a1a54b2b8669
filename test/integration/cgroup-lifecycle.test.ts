/** Real cgroups: those of this host and, on a hybrid one, its v2 tree as if it were a v2 host. */
import { afterEach, describe, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
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
    expect(await processes(host, path)).toEqual([child.pid]);
    expect(await processes(host, top)).toEqual([child.pid]);
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
    expect(await processes(host, top)).toEqual([]);
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
        expect(await processes(host, path)).toEqual([]);
      } finally {
        await killAll(host, path, 5_000);
        await removeCgroup(host, top);
      }
    },
  );
});

/** Cgroups one in the other, by names that are too long together for any path. */
function makeDeep(directory: string, depth: number): void {
  const script = `cd "$1" && for i in $(seq ${depth}); do mkdir "$2" && cd "$2" || exit 1; done`;
  execFileSync("bash", ["-c", script, "sh", directory, "n".repeat(200)]);
}

describe.if(hosts.has("the v2 tree"))("cgroup v2", () => {
  const host = hosts.get("the v2 tree") ?? detectCgroups();
  const directory = (path: string) => `${host.hierarchies[0]?.mountPoint}${top}/${path}`;
  const make = (path: string, type = "") => {
    mkdirSync(directory(path), { recursive: true });
    if (type !== "") writeFileSync(`${directory(path)}/cgroup.type`, type);
  };
  const typeOf = (path: string) => readFileSync(`${directory(path)}/cgroup.type`, "utf8").trim();

  afterEach(async () => {
    await killAll(host, top, 5_000);
    await removeCgroup(host, top);
  });

  test("a cgroup with children takes no process", () => {
    createCgroup(host, `${top}/a/b`);
    expect(() => addProcess(host, `${top}/a`, process.pid)).toThrow(/has child cgroups/);
  });

  test("a threaded cgroup below it does not keep a cgroup from being listed, killed and removed", async () => {
    createCgroup(host, `${top}/a`);
    const child = spawnSleeper();
    addProcess(host, `${top}/a`, child.pid);
    make("a/t", "threaded");
    writeFileSync(`${directory("a/t")}/cgroup.threads`, String(child.pid));
    make("a/t/deeper", "threaded");
    make("a/t/invalid");
    expect(["a", "a/t", "a/t/invalid"].map(typeOf)).toEqual([
      "domain threaded",
      "threaded",
      "domain invalid",
    ]);
    expect(await processes(host, `${top}/a`)).toEqual([child.pid]);
    await killAll(host, `${top}/a`, 5_000);
    await child.exited;
    expect(child.signalCode).toBe("SIGKILL");
    await removeCgroup(host, `${top}/a`);
    expect(cgroupExists(host, `${top}/a`)).toBe(false);
  });

  test("a cgroup that is threaded itself is listed, killed and removed", async () => {
    createCgroup(host, `${top}/a`);
    const child = spawnSleeper();
    addProcess(host, `${top}/a`, child.pid);
    make("a/t", "threaded");
    writeFileSync(`${directory("a/t")}/cgroup.threads`, String(child.pid));
    expect(await processes(host, `${top}/a/t`)).toEqual([child.pid]);
    await killAll(host, `${top}/a/t`, 5_000);
    await child.exited;
    await removeCgroup(host, `${top}/a/t`);
    expect(cgroupExists(host, `${top}/a/t`)).toBe(false);
  });

  test("processes that a child cgroup has frozen are killed all the same", async () => {
    make("a/frozen");
    const child = spawnSleeper();
    addProcess(host, `${top}/a/frozen`, child.pid);
    writeFileSync(`${directory("a/frozen")}/cgroup.freeze`, "1");
    const events = () => readFileSync(`${directory("a/frozen")}/cgroup.events`, "utf8");
    await until("frozen", () => events().includes("frozen 1"));
    await killAll(host, `${top}/a`, 5_000);
    await child.exited;
    await removeCgroup(host, `${top}/a`);
  });

  test("cgroups deeper than any path is long are killed and removed", async () => {
    make("a");
    makeDeep(directory("a"), 40);
    await killAll(host, `${top}/a`, 5_000);
    await removeCgroup(host, `${top}/a`);
    expect(cgroupExists(host, `${top}/a`)).toBe(false);
  });

  test("a cgroup that fills and multiplies while it is removed is gone in the end", async () => {
    make("a");
    const script = `for i in $(seq 500); do mkdir ${directory("a")}/$i 2>/dev/null; done`;
    const maker = spawnSleeper(script);
    await until("some are made", () => cgroupExists(host, `${top}/a/5`));
    await removeCgroup(host, `${top}/a`, 10_000);
    await maker.exited;
    expect(cgroupExists(host, `${top}/a`)).toBe(false);
  });

  test("others run while thousands of cgroups are looked through and removed", async () => {
    make("a");
    const script = 'cd "$1" && seq 3000 | xargs mkdir';
    execFileSync("sh", ["-c", script, "sh", directory("a")]);
    let turns = 0;
    const timer = setInterval(() => {
      turns += 1;
    }, 1);
    await killAll(host, `${top}/a`, 5_000);
    await removeCgroup(host, `${top}/a`);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(10);
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
