/** Figures of real processes in real cgroups of this host. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  addProcess,
  createCgroup,
  detectCgroups,
  killAll,
  removeCgroup,
} from "../../src/linux/cgroup.ts";
import { readCgroupStats } from "../../src/stats/cgroup-stats.ts";
import { readNetwork } from "../../src/stats/network.ts";
import { StatsReader } from "../../src/stats/reader.ts";

const host = detectCgroups();
const top = `/crib-test-stats-${process.pid}`;
const busyPath = `${top}/busy`;
let layer: string;
let busy: Bun.Subprocess;

beforeAll(async () => {
  layer = mkdtempSync(join(tmpdir(), "crib-stats-"));
  await Bun.write(join(layer, "file"), "x".repeat(10_000));
  createCgroup(host, busyPath);
  // The shell waits until it is in the cgroup, so that its memory and time are charged there.
  const script = "read go; kept=$(head -c 4000000 /dev/zero | tr '\\0' x); while :; do :; done";
  busy = Bun.spawn(["sh", "-c", script], { stdio: ["pipe", "ignore", "ignore"] });
  addProcess(host, busyPath, busy.pid);
  if (typeof busy.stdin === "object") {
    busy.stdin.write("go\n");
    busy.stdin.flush();
  }
});

afterAll(async () => {
  busy.kill("SIGKILL");
  await busy.exited;
  await killAll(host, top, 5_000);
  await removeCgroup(host, top);
  rmSync(layer, { recursive: true });
});

function target(cgroupPath: string | undefined) {
  return { id: "c1", attributes: { id: "c1" }, cgroupPath, layerDirectory: layer };
}

describe("StatsReader", () => {
  test("a busy loop uses CPU time, and has a rate from the second sample on", async () => {
    const reader = new StatsReader({ host, storageRoot: "/var/lib/crib", executable: [] });
    const [first] = await reader.read([target(busyPath)]);
    await Bun.sleep(500);
    let [second] = await reader.read([target(busyPath)]);
    while (second?.writableLayer === undefined) [second] = await reader.read([target(busyPath)]);
    expect(first?.cpu?.usageNanoCores).toBeUndefined();
    const before = first?.cpu?.usageCoreNanoSeconds?.value ?? 0n;
    expect(second?.cpu?.usageCoreNanoSeconds?.value).toBeGreaterThan(before);
    expect(second?.cpu?.usageNanoCores?.value).toBeGreaterThan(0n);
    expect(second?.memory?.usageBytes?.value).toBeGreaterThan(0n);
    expect(second?.memory?.pageFaults?.value).toBeGreaterThan(0n);
    expect(second?.writableLayer?.inodesUsed?.value).toBe(2n);
    expect(second?.writableLayer?.fsId?.mountpoint).toBe("/var/lib/crib");
  });

  test("many containers are answered in order, those without a cgroup with their layer only", async () => {
    const reader = new StatsReader({ host, storageRoot: "/var/lib/crib", executable: [] });
    const targets = Array.from({ length: 50 }, (_, index) => ({
      ...target(index % 2 === 0 ? busyPath : `${top}/gone`),
      id: `c${index}`,
      attributes: { id: `c${index}` },
    }));
    const answers = await reader.read(targets);
    expect(answers.map((answer) => answer.attributes?.id)).toEqual(targets.map(({ id }) => id));
    expect(answers.map((answer) => answer.cpu !== undefined)).toEqual(
      targets.map((_, index) => index % 2 === 0),
    );
    // On a slow machine the first walk may take longer than an answer waits for it.
    let last = answers;
    while (last.some((answer) => answer.writableLayer === undefined))
      last = await reader.read(targets);
  });
});

describe("cgroup v2", () => {
  const line = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .find((each) => each.includes(" - cgroup2 "));

  test.if(line !== undefined)("CPU time and pressure are there without controllers", async () => {
    const v2 = detectCgroups(line);
    const path = `${top}-v2`;
    createCgroup(v2, path);
    try {
      addProcess(v2, path, busy.pid);
      await Bun.sleep(50);
      const reading = readCgroupStats(v2, path);
      expect(reading?.cpu?.usageCoreNanoSeconds).toBeGreaterThan(0n);
    } finally {
      await Bun.write(`${v2.hierarchies[0]?.mountPoint}/cgroup.procs`, String(busy.pid));
      await removeCgroup(v2, path);
    }
  });
});

test("a process's network namespace is read through its pid; one that is gone has none", () => {
  expect(readNetwork(process.pid)?.map(({ name }) => name)).not.toContain("lo");
  expect(readNetwork(2 ** 22 + 1)).toBeUndefined();
});
