/** Exec through a real monitor and runc. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { until } from "../fixtures/until.ts";
import { buildMonitor, findProcess, read, TestPod } from "./monitor-harness.ts";

let pod: TestPod;
let id: string;

beforeAll(async () => {
  pod = await TestPod.start(buildMonitor());
  id = await pod.run({ args: ["sleep", "100000"] });
});
afterAll(async () => pod.dispose());

function children(): number[] {
  const { pid } = pod.monitor;
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8");
  return text.split(" ").filter(Boolean).map(Number);
}

/** Ticks of CPU time that a process has used, and how often it has waited. */
function costsOf(pid: number): { ticks: number; waits: number } {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const waits = /^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)?.[1];
  return { ticks: Number(stat[11]) + Number(stat[12]), waits: Number(waits) };
}

/** What seq says, 8 MB. */
const numbers = `${Array.from({ length: 1_100_000 }, (_, i) => i + 1).join("\n")}\n`;

const descriptors = () => readdirSync(`/proc/${pod.monitor.pid}/fd`).length;

test("output, exit code and streams come back", async () => {
  const result = await pod.exec(id, ["sh", "-c", "echo out; echo err >&2; exit 5"]);
  expect(result).toEqual({
    exitCode: 5,
    signal: 0,
    timedOut: false,
    runtimeFailed: false,
    stdout: "out\n",
    stderr: "err\n",
  });
});

test("a signal is told", async () => {
  expect(await pod.exec(id, ["sh", "-c", "kill -9 $$"])).toMatchObject({
    exitCode: 137,
    signal: 9,
    timedOut: false,
  });
});

test("a program that does not exist is the runtime's failure, with its words", async () => {
  const result = await pod.exec(id, ["/no/such/program"]);
  expect(result.runtimeFailed).toBe(true);
  expect(result.exitCode).not.toBe(0);
  expect(result.stderr).toContain("no such file or directory");
});

test("a command that is held up waits with its output, and others do not; let go, all of it comes", async () => {
  let holding: Promise<void> | undefined;
  let letGo = async () => {};
  let pieces = 0;
  const held = pod.exec(id, ["seq", "1", "1100000"], {
    onOutput(setFlow) {
      pieces += 1;
      holding ??= setFlow("held");
      letGo = () => setFlow("on");
    },
  });
  await until("it speaks", () => pieces > 0);
  await holding;
  const before = pieces;
  expect((await pod.exec(id, ["echo", "another"])).stdout).toBe("another\n");
  expect(pieces).toBe(before);
  await letGo();
  const { stdout, exitCode } = await held;
  expect(exitCode).toBe(0);
  expect(stdout === numbers).toBe(true);
});

test("a command that is held up is killed at its deadline, and that is told at once", async () => {
  const result = await pod.exec(id, ["yes"], {
    timeoutMs: 1000,
    drainMs: 1_000_000,
    onOutput: (setFlow) => void setFlow("held"),
  });
  expect(result).toMatchObject({ timedOut: true, exitCode: 137 });
});

test.each(["on", "held"] as const)(
  "of a command that was %s and is dropped nothing comes any more, and it ends in good order",
  async (before) => {
    let asked = false;
    let dropped = false;
    let late = 0;
    const result = await pod.exec(id, ["sh", "-c", "seq 1 1100000; exit 3"], {
      onOutput(setFlow) {
        if (dropped) late += 1;
        if (asked) return;
        asked = true;
        void setFlow(before)
          .then(() => setFlow("dropped"))
          .then(() => {
            dropped = true;
          });
      },
    });
    expect(result).toMatchObject({ exitCode: 3, timedOut: false });
    expect(late).toBe(0);
    expect(result.stdout.length).toBeLessThan(numbers.length);
  },
);

test("8 MB of output arrive whole", async () => {
  const result = await pod.exec(id, ["seq", "1", "1100000"]);
  expect(result.exitCode).toBe(0);
  expect(result.stdout.length).toBe(numbers.length);
  expect(result.stdout === numbers).toBe(true);
});

test("a timeout kills the process and what it started", async () => {
  const script = "sleep 4321 & echo started; sleep 4321; echo never";
  const result = await pod.exec(id, ["sh", "-c", script], { timeoutMs: 500 });
  expect(result).toMatchObject({ timedOut: true, exitCode: 137, signal: 9, stdout: "started\n" });
  await until("no sleep 4321 is left", () => findProcess("sleep", "4321") === undefined);
});

// It never stops, as one that waits for storage that does not answer.
test.skipIf(!existsSync("/sys/fs/cgroup/freezer"))(
  "a timeout of a process that cannot die keeps the monitor from nothing",
  async () => {
    const own = await TestPod.start(buildMonitor());
    try {
      const hung = await own.run({ args: ["sleep", "1000"] });
      const freezer = `/sys/fs/cgroup/freezer${own.cgroup}/${hung}/freezer.state`;
      const timed = own.exec(hung, ["sleep", "2000"], { timeoutMs: 1_000 });
      await until("its process", () => findProcess("sleep", "2000"));
      writeFileSync(freezer, "FROZEN");
      const before = costsOf(own.monitor.pid);
      await Bun.sleep(2_500);
      const after = costsOf(own.monitor.pid);
      writeFileSync(freezer, "THAWED");
      expect(await timed).toMatchObject({ timedOut: true, exitCode: 137 });
      expect(after.ticks - before.ticks).toBeLessThan(20);
      expect(after.waits - before.waits).toBeLessThan(100);
    } finally {
      await own.dispose();
    }
  },
);

test("a timeout while the runtime still works ends it", async () => {
  const result = await pod.monitor.exec(
    {
      id,
      argv: ["/bin/sh", "-c", "sleep 1000 & sleep 1000"],
      env: [],
      cwd: "/",
      pidFile: pod.path("never.pid"),
      timeoutMs: 200,
      drainMs: 200,
    },
    { stdout() {}, stderr() {} },
  );
  expect(result).toMatchObject({ timedOut: true, runtimeFailed: false });
});

test("output that was written before the end is not lost, however short the drain", async () => {
  const script = ["sh", "-c", "echo out; echo err >&2"];
  const framed = Array.from({ length: 40 }, () => pod.exec(id, script, { drainMs: 0 }));
  for (const { stdout, stderr } of await Promise.all(framed)) {
    expect([stdout, stderr]).toEqual(["out\n", "err\n"]);
  }
  const wants = { stdout: true, stderr: true };
  const live = Array.from({ length: 40 }, async () => {
    const { io, stderr, ended, close } = await pod.execLive(id, script, wants, { drainMs: 0 });
    const texts = await Promise.all([read(io), read(stderr), ended]);
    close();
    return texts.slice(0, 2);
  });
  for (const texts of await Promise.all(live)) expect(texts).toEqual(["out\n", "err\n"]);
}, 60_000);

test("a background child that keeps stdout does not hold the reply", async () => {
  const result = await pod.exec(id, ["sh", "-c", "sleep 30 & echo done"], { drainMs: 200 });
  expect(result).toMatchObject({ exitCode: 0, stdout: "done\n", timedOut: false });
});

test("processes faster than the runtime keep their exit codes, also many at once", async () => {
  for (let round = 0; round < 5; round++) {
    const codes = Array.from({ length: 10 }, (_, i) => i);
    const results = await Promise.all(codes.map((c) => pod.exec(id, ["sh", "-c", `exit ${c}`])));
    expect(results.map((result) => result.exitCode)).toEqual(codes);
    expect(results.some((result) => result.runtimeFailed)).toBe(false);
  }
});

test("a storm of orphans is reaped at once and costs no exec its exit code", async () => {
  // In the monitor's PID namespace, whose subreaper the monitor is.
  const storm = await pod.run({
    args: ["sh", "-c", "while :; do (true & true & true & true & true & true &); echo; done"],
    namespaces: [{ type: "mount" }, { type: "ipc" }],
  });
  for (let round = 0; round < 8; round++) {
    const codes = await Promise.all(
      Array.from({ length: 4 }, (_, i) => pod.exec(id, ["sh", "-c", `exit ${round * 4 + i}`])),
    );
    expect(codes.map(({ exitCode }) => exitCode)).toEqual([0, 1, 2, 3].map((i) => round * 4 + i));
  }
  await pod.monitor.kill(storm, 9);
  await pod.exited(storm);
  expect(6 * pod.log(storm).split("\n").length).toBeGreaterThan(1_000);
  await until("only the other container is a child", () => children().length === 1);
});

test("more execs at once than there is room for are refused", async () => {
  const many = Array.from({ length: 260 }, () =>
    pod.monitor
      .exec(
        {
          id,
          argv: ["/bin/sleep", "2"],
          env: [],
          cwd: "/",
          pidFile: pod.path("none.pid"),
          timeoutMs: 0,
          drainMs: 100,
        },
        { stdout() {}, stderr() {} },
      )
      .then(
        () => "ran",
        (error: { code: string }) => error.code,
      ),
  );
  const outcomes = await Promise.all(many);
  expect(outcomes.filter((outcome) => outcome === "ran").length).toBe(256);
  expect(outcomes.filter((outcome) => outcome === "ResourceExhausted").length).toBe(4);
});

test("an oversized command is refused before it is sent", async () => {
  await expect(pod.exec(id, ["x".repeat(2 << 20)])).rejects.toMatchObject({
    code: "InvalidArgument",
  });
});

test("200 execs leave no descriptor, no child and no memory behind", async () => {
  const memory = () => {
    const text = readFileSync(`/proc/${pod.monitor.pid}/status`, "utf8");
    return Number(/RssAnon:\s+(\d+)/.exec(text)?.[1]);
  };
  const quiet = () => until("only the container is a child", () => children().length === 1);
  await pod.exec(id, ["true"]);
  await quiet();
  await Bun.sleep(2500); // the monitor gives its buffers back when it is idle
  const before = { descriptors: descriptors(), memory: memory() };
  for (let round = 0; round < 40; round++) {
    await Promise.all(Array.from({ length: 5 }, () => pod.exec(id, ["echo", "x"])));
  }
  await quiet();
  await Bun.sleep(2500);
  expect(descriptors()).toBe(before.descriptors);
  expect(memory() - before.memory).toBeLessThan(32);
}, 60_000);
