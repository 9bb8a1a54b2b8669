/** Containers under a real monitor and runc. Needs root. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { readExitRecords } from "../../src/monitor/exits.ts";
import { until } from "../fixtures/until.ts";
import { buildMonitor, findProcess, parseLog, readText, TestPod } from "./monitor-harness.ts";

let binary: string;
let pod: TestPod;

beforeAll(async () => {
  binary = buildMonitor();
  pod = await TestPod.start(binary);
});
afterAll(async () => pod.dispose());

async function recordOf(id: string) {
  const record = (await pod.monitor.list()).find((each) => each.id === id);
  if (record === undefined) throw new Error(`the monitor knows no ${id}`);
  return record;
}

/** The most that one of a process's event descriptors has been told of. */
function notices(pid: number): number {
  const counts = readdirSync(`/proc/${pid}/fdinfo`).map((fd) => {
    const text = readText(`/proc/${pid}/fdinfo/${fd}`);
    return Number.parseInt(/^eventfd-count:\s*([0-9a-f]+)/m.exec(text)?.[1] ?? "0", 16);
  });
  return Math.max(...counts);
}

/** Whether it takes signals: when not, it has been reaped. */
function isRunning(of: TestPod, id: string): Promise<boolean> {
  return of.monitor.kill(id, 0).then(
    () => true,
    () => false,
  );
}

describe("how a container ends", () => {
  test("its exit code is reported, and written to disk first", async () => {
    const id = await pod.run({ args: ["sh", "-c", "exit 7"] });
    const exit = await pod.exited(id);
    expect(exit).toMatchObject({ exitCode: 7, signal: 0, oomKilled: false, droppedLogBytes: 0n });
    const records = await readExitRecords(pod.directory);
    expect(records.find((record) => record.id === id)).toEqual(exit);
    expect(Math.abs(Number(exit.finishedAtNs / 1_000_000n) - Date.now())).toBeLessThan(60_000);
  });

  test("a signal is reported as 128 + signal", async () => {
    const id = await pod.run({ args: ["sleep", "1000"] });
    await pod.monitor.kill(id, 9);
    expect(await pod.exited(id)).toMatchObject({ exitCode: 137, signal: 9 });
    await expect(pod.monitor.kill(id, 9)).rejects.toMatchObject({ code: "FailedPrecondition" });
  });

  test("a kill for want of memory is told apart from any other SIGKILL", async () => {
    const id = await pod.run({
      args: ["sh", "-c", "exec dd if=/dev/zero of=/dev/null bs=64M"],
      memoryLimitBytes: 8 << 20,
    });
    expect(await pod.exited(id)).toMatchObject({ exitCode: 137, signal: 9, oomKilled: true });
  });

  // Files that stand for those of cgroup v2: truncated, they tell as little as those of a removed cgroup.
  test.each([
    ["the parent's count tells a kill for want of memory", 3, "the kernel", true],
    ["a count that has not risen tells of none", 2, "the kernel", false],
    // The parent may be that of other pods too.
    ["the count tells nothing of a kill that was asked for", 3, "a request", false],
  ])("after its cgroup has vanished, %s", async (_, parentKills, killer, oomKilled) => {
    const slice = mkdtempSync(`${pod.directory}/slice-`);
    mkdirSync(`${slice}/scope`);
    writeFileSync(`${slice}/memory.events`, "oom 2\noom_kill 2\n");
    writeFileSync(`${slice}/scope/memory.events`, "oom 0\noom_kill 0\n");
    const id = `vanished-${parentKills}-${killer.at(-1)}`;
    const request = pod.createRequest(id, { args: ["sleep", "1000"] });
    pod.containers.push(id);
    await pod.monitor.create({ ...request, oomFile: `${slice}/scope/memory.events` });
    pod.start(id);
    writeFileSync(`${slice}/scope/memory.events`, "");
    writeFileSync(`${slice}/memory.events`, `oom ${parentKills}\noom_kill ${parentKills}\n`);
    if (killer === "a request") await pod.monitor.kill(id, 9);
    else process.kill((await recordOf(id)).pid, "SIGKILL");
    expect(await pod.exited(id)).toMatchObject({ exitCode: 137, oomKilled });
  });

  // systemd removes an empty cgroup faster than a monitor that got no CPU looks at it.
  test.skipIf(existsSync("/sys/fs/cgroup/cgroup.controllers")).each([
    ["a kill for want of memory", true],
    ["any other kill", false],
  ])("on cgroup v1 %s is told, also when the cgroup has vanished", async (_, isOom) => {
    const args = isOom ? ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M"] : ["sleep", "1000"];
    const id = await pod.run({ args, memoryLimitBytes: 8 << 20, start: false });
    const { pid } = await recordOf(id);
    const monitor = pod.monitor.pid;
    process.kill(monitor, "SIGSTOP");
    try {
      pod.start(id);
      if (!isOom) process.kill(pid, "SIGKILL");
      await until("it is dead", () => /^State:\tZ/m.test(readText(`/proc/${pid}/status`)));
      const cgroup = `/sys/fs/cgroup/memory${pod.cgroup}/${id}`;
      await until("its cgroup is gone", () => spawnSync("rmdir", [cgroup]).status === 0);
      await until("the kernel has told", () => notices(monitor) >= (isOom ? 2 : 1));
    } finally {
      process.kill(monitor, "SIGCONT");
    }
    expect(await pod.exited(id)).toMatchObject({ exitCode: 137, oomKilled: isOom });
  });

  test("its exit waits for its record, but not for ever", async () => {
    const disk = pod.path("full");
    mkdirSync(disk);
    expect(spawnSync("mount", ["-t", "tmpfs", "-o", "size=64k", "none", disk]).status).toBe(0);
    const other = await TestPod.start(binary, { directory: `${disk}/pod` });
    try {
      const path = (id: string) => `${disk}/pod/exits/${id}`;
      const fill = () => spawnSync("dd", ["if=/dev/zero", `of=${disk}/ballast`, "bs=4k"]);
      for (const isRelieved of [true, false]) {
        const id = await other.run({ args: ["cat"], stdin: true });
        fill();
        await other.monitor.kill(id, 9);
        const exit = other.exited(id);
        // As soon as it is known not to run, it has failed to be recorded.
        while (await isRunning(other, id)) await Bun.sleep(1);
        if (isRelieved) rmSync(`${disk}/ballast`);
        expect(await exit).toMatchObject({ exitCode: 137 });
        expect(readText(path(id)) !== "").toBe(isRelieved);
        rmSync(`${disk}/ballast`, { force: true });
        await until("the record", () => readText(path(id)) !== "");
      }
    } finally {
      await other.dispose();
      spawnSync("umount", ["-l", disk]);
    }
  });

  test("a forgotten one leaves nothing", async () => {
    const id = await pod.run({ args: ["true"] });
    await expect(pod.monitor.forget("unknown")).rejects.toMatchObject({ code: "NotFound" });
    await pod.exited(id);
    expect(existsSync(`${pod.directory}/exits/${id}`)).toBe(true);
    await pod.monitor.forget(id);
    expect(existsSync(`${pod.directory}/exits/${id}`)).toBe(false);
    expect((await pod.monitor.list()).map((record) => record.id)).not.toContain(id);
  });

  test("a running one cannot be forgotten", async () => {
    const id = await pod.run({ args: ["sleep", "1000"] });
    await expect(pod.monitor.forget(id)).rejects.toMatchObject({ code: "FailedPrecondition" });
    await pod.monitor.kill(id, 9);
    await pod.exited(id);
  });
});

describe("creation", () => {
  test("a runtime that fails leaves no container", async () => {
    const request = pod.createRequest("broken", { args: ["/no/such/program"] });
    const argv = request.argv.map((word) => (word === "--bundle" ? "--no-such-flag" : word));
    const created = await pod.monitor.create({ ...request, argv });
    expect(created.pid).toBe(0);
    expect(created.exitStatus).not.toBe(0);
    expect((await pod.monitor.list()).map((record) => record.id)).not.toContain("broken");
  });

  test("a runtime that is not there is named", async () => {
    const request = pod.createRequest("absent", { args: ["true"] });
    const created = await pod.monitor.create({ ...request, argv: ["/no/such/runtime"] });
    expect(created.pid).toBe(0);
    expect(created.startError).toBe("execve /no/such/runtime: No such file or directory");
  });

  test("a runtime that hangs is killed at the deadline", async () => {
    const request = pod.createRequest("hanging", { args: ["true"] });
    const argv = ["/bin/sh", "-c", "sleep 1000 & sleep 1000"];
    const created = await pod.monitor.create({ ...request, argv, deadlineMs: 200 });
    expect(created).toMatchObject({ pid: 0, exitStatus: 137 });
    expect(created.startError).toContain("did not end in time");
  });

  test("a runtime that starts processes until it is killed leaves none", async () => {
    const request = pod.createRequest("forking", { args: ["true"] });
    const argv = ["/bin/sh", "-c", "while :; do setsid sleep 7654 & done"];
    for (let round = 0; round < 4; round++) {
      const created = await pod.monitor.create({ ...request, argv, deadlineMs: 100 });
      expect(created).toMatchObject({ pid: 0, exitStatus: 137 });
    }
    await Bun.sleep(100); // those that were killed may still be dying
    expect(findProcess("sleep", "7654")).toBeUndefined();
  });

  test("what a runtime made before it was killed goes with it", async () => {
    const request = pod.createRequest("half-made", { args: ["true"] });
    // The process is nobody's child but the monitor's when the deadline comes.
    const script = `(setsid sleep 5432 & echo $! > ${request.pidFile}); sleep 1000`;
    const argv = ["/bin/sh", "-c", script];
    const created = await pod.monitor.create({ ...request, argv, deadlineMs: 500 });
    expect(created).toMatchObject({ pid: 0, exitStatus: 137 });
    await until("it is gone", () => findProcess("sleep", "5432") === undefined);
  });

  test("one under way can be forgotten: its runtime is ended first", async () => {
    const request = pod.createRequest("cancelled", { args: ["true"] });
    const argv = ["/bin/sh", "-c", "sleep 6543; true"];
    const creation = pod.monitor.create({ ...request, argv });
    await until("the runtime works", () => findProcess("sleep", "6543"));
    await pod.monitor.forget("cancelled");
    expect(await creation).toMatchObject({ pid: 0, startError: "the container was forgotten" });
    expect((await pod.monitor.list()).map((record) => record.id)).not.toContain("cancelled");
    await until("it is gone", () => findProcess("sleep", "6543") === undefined);
  });

  test("two containers cannot have one id", async () => {
    const id = await pod.run({ args: ["sleep", "1000"] });
    const again = pod.monitor.create(pod.createRequest(id, { args: ["true"] }));
    await expect(again).rejects.toMatchObject({ code: "AlreadyExists" });
    await pod.monitor.kill(id, 9);
    await pod.exited(id);
  });

  test("nothing but the given environment and three descriptors reaches the runtime", async () => {
    const show = async (id: string, ...args: string[]) => {
      const request = pod.createRequest(id, { args: ["true"] });
      const argv = ["/bin/busybox", ...args];
      const created = await pod.monitor.create({ ...request, argv, env: ["ONLY=this"] });
      expect(created).toMatchObject({ pid: 0, exitStatus: 0 });
      expect(created.startError).toBe("the runtime wrote no pid file");
      return parseLog(pod.log(id)).map((record) => record.content);
    };
    expect(await show("leaks-env", "env")).toEqual(["ONLY=this"]);
    const descriptors = await show("leaks-fd", "ls", "/proc/self/fd");
    expect(descriptors).toEqual(["0", "1", "2", "3"]); // 3 is ls reading the directory
    // Of the limit of open files the soft half, which the daemon has raised for itself.
    const limits = readFileSync("/proc/self/limits", "utf8");
    const [, soft, hard = ""] = /^Max open files\s+(\d+)\s+(\d+)/m.exec(limits) ?? [];
    expect(Number(soft)).toBeGreaterThan(1024);
    expect(await show("leaks-limit", "sh", "-c", "ulimit -Sn; ulimit -Hn")).toEqual(["1024", hard]);
    const status = await show("leaks-signals", "cat", "/proc/self/status");
    for (const mask of ["SigBlk", "SigIgn"]) {
      expect(status.find((line) => line.startsWith(mask))).toMatch(/:\s+0+$/);
    }
  });
});

describe("stdin", () => {
  test("without it a container reads the end of file at once", async () => {
    const id = await pod.run({ args: ["cat"] });
    expect(await pod.exited(id)).toMatchObject({ exitCode: 0 });
  });

  test("with it a container waits for input", async () => {
    const id = await pod.run({ args: ["sh", "-c", "echo up; cat; echo down"], stdin: true });
    while (!readFileSync(pod.logPath(id), "utf8").includes("up")) await Bun.sleep(10);
    await Bun.sleep(300);
    expect(pod.exits.has(id)).toBe(false);
    expect(pod.log(id)).not.toContain("down");
    await pod.monitor.kill(id, 9);
    await pod.exited(id);
  });
});
