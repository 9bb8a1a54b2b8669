/** Execs with live streams, through a real monitor and runc. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { until } from "../fixtures/until.ts";
import { buildMonitor, findProcess, parseLog, read, TestPod } from "./monitor-harness.ts";

let pod: TestPod;
let id: string;

beforeAll(async () => {
  pod = await TestPod.start(buildMonitor());
  id = await pod.run({ args: ["sleep", "100000"] });
});
afterAll(async () => pod.dispose());

const monitorFile = (name: string) => readFileSync(`/proc/${pod.monitor.pid}/${name}`, "utf8");
const descriptors = () => readdirSync(`/proc/${pod.monitor.pid}/fd`).length;

test("output, exit code and streams come back", async () => {
  const live = await pod.execLive(id, ["sh", "-c", "echo out; echo err >&2; exit 5"]);
  const [out, err, result] = await Promise.all([read(live.io), read(live.stderr), live.ended]);
  expect([out, err]).toEqual(["out\n", "err\n"]);
  expect(result).toMatchObject({ exitCode: 5, signal: 0, runtimeFailed: false });
});

test("stderr alone, and stdin alone", async () => {
  const stderr = await pod.execLive(id, ["sh", "-c", "echo out; echo err >&2"], { stderr: true });
  expect(stderr.io).toBeUndefined();
  expect(await read(stderr.stderr)).toBe("err\n");
  const script = "read x; [ $x = word ] && exit 7; exit 1";
  const stdin = await pod.execLive(id, ["sh", "-c", script], { stdin: true });
  stdin.io?.write("word\n");
  expect(await stdin.ended).toMatchObject({ exitCode: 7 });
  stdin.close();
});

test("what a client says is read whole, and its end", async () => {
  const live = await pod.execLive(id, ["cat"], { stdin: true, stdout: true });
  const bytes = Buffer.alloc(5_000_000, "0123456789abc");
  live.io?.end(bytes);
  expect((await read(live.io)) === bytes.toString()).toBe(true);
  expect(await live.ended).toMatchObject({ exitCode: 0 });
});

test("what a process does not read any more costs none of its output", async () => {
  const live = await pod.execLive(id, ["sh", "-c", "head -n 1; exec sleep 0.3"], {
    stdin: true,
    stdout: true,
  });
  live.io?.write("first\n");
  const more = () => live.io?.write(Buffer.alloc(65_536, "x")) && setTimeout(more, 1);
  live.io?.on("drain", more);
  more();
  await live.ended;
  expect(await read(live.io)).toBe("first\n");
  live.close();
});

test("8 MB of output arrive whole", async () => {
  const live = await pod.execLive(id, ["seq", "1", "1100000"]);
  const expected = `${Array.from({ length: 1_100_000 }, (_, i) => i + 1).join("\n")}\n`;
  expect((await read(live.io)) === expected).toBe(true);
});

test("a terminal is one, has its size, and hears the client", async () => {
  const wants = { stdin: true, stdout: true, tty: true };
  const script =
    "tty; read x; stty size; echo got $x; trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done";
  const live = await pod.execLive(id, ["sh", "-c", script], wants);
  let out = "";
  live.io?.on("data", (chunk) => {
    out += chunk;
  });
  live.resize({ columns: 1, rows: 1 });
  live.resize({ columns: 101, rows: 37 });
  live.io?.write("hello\n");
  await until("its answers", () => out.includes("ready\r\n"));
  expect(out).toContain("/dev/pts/");
  expect(out).toContain("37 101\r\n");
  expect(out).toContain("got hello\r\n");
  live.resize({ columns: 80, rows: 25 });
  await until("a new size is told", () => out.includes("25 80\r\n"));
  live.close();
});

test("the end of a client's input does not end a terminal", async () => {
  const wants = { stdin: true, stdout: true, tty: true };
  const live = await pod.execLive(id, ["sh", "-c", "read x; sleep 0.3; echo late $x"], wants);
  live.io?.end("word\n");
  expect(await read(live.io)).toContain("late word\r\n");
  expect(await live.ended).toMatchObject({ exitCode: 0 });
});

test("a program that does not exist is the runtime's failure, with a terminal too", async () => {
  for (const wants of [{ stdout: true }, { stdout: true, tty: true }]) {
    const live = await pod.execLive(id, ["/no/such/program"], wants);
    await read(live.io);
    expect(await live.ended).toMatchObject({ runtimeFailed: true });
  }
});

test("a runtime that sends no terminal fails", async () => {
  const live = await pod.monitor.execLive(
    {
      id,
      argv: ["/bin/true"],
      env: [],
      cwd: pod.root,
      pidFile: pod.path("none.pid"),
      timeoutMs: 0,
      drainMs: 100,
    },
    { stdin: true, stdout: true, stderr: false, tty: true },
    "none.sock",
  );
  expect(await read(live.io)).toBe("");
  expect(await live.ended).toMatchObject({ runtimeFailed: true });
  live.close();
});

test("a process waits for a client that does not read, and nobody else does", async () => {
  const live = await pod.execLive(id, ["seq", "1", "1100000"]);
  live.io?.pause();
  const other = await pod.execLive(id, ["seq", "1", "300000"]);
  expect((await read(other.io)).length).toBe(1_988_895);
  await pod.monitor.list();
  const before = performance.now();
  expect((await pod.exec(id, ["echo", "hi"])).stdout).toBe("hi\n");
  expect(performance.now() - before).toBeLessThan(10_000); // not for ever
  expect(findProcess("seq", "1", "1100000")).toBeDefined();
  expect((await read(live.io)).length).toBe(7_688_896);
  expect(await live.ended).toMatchObject({ exitCode: 0 });
});

test("output of a process that has ended waits for its client", async () => {
  const live = await pod.execLive(id, ["seq", "1", "60000"], { stdout: true }, { drainMs: 100 });
  live.io?.pause();
  await Bun.sleep(1000);
  expect((await read(live.io)).length).toBe(348_894);
});

test("a background child that keeps the output does not hold the end", async () => {
  for (const tty of [false, true]) {
    const script = "trap '' HUP; sleep 31 & echo done";
    const wants = { stdout: true, tty };
    const live = await pod.execLive(id, ["sh", "-c", script], wants, { drainMs: 200 });
    expect((await read(live.io)).trim()).toBe("done");
    expect(await live.ended).toMatchObject({ exitCode: 0 });
  }
});

test("a client that is gone hangs up a terminal", async () => {
  const wants = { stdin: true, stdout: true, tty: true };
  const live = await pod.execLive(id, ["sh", "-c", "sleep 6541"], wants);
  await until("the process runs", () => findProcess("sleep", "6541"));
  live.close();
  await until("the process is gone", () => findProcess("sleep", "6541") === undefined);
  expect(await live.ended).toMatchObject({ signal: 1 });
});

test("a client that is gone before the terminal is there hangs it up all the same", async () => {
  const wants = { stdin: true, stdout: true, tty: true };
  const live = await pod.execLive(id, ["sh", "-c", "sleep 6542"], wants);
  live.close();
  expect(await live.ended).toMatchObject({ signal: 1 });
});

test("without a terminal a quiet process goes on without its client", async () => {
  const script =
    "cat >/tmp/said; sleep 0.2; echo more >>/tmp/said; echo lost; echo never >>/tmp/said";
  const wants = { stdin: true, stdout: true };
  const live = await pod.execLive(id, ["sh", "-c", script], wants);
  const sent = Promise.withResolvers<void>();
  live.io?.write("last words\n", () => sent.resolve());
  await sent.promise;
  live.close();
  // The end of its input; then what it writes finds no reader.
  expect(await live.ended).toMatchObject({ signal: 13 });
  expect((await pod.exec(id, ["cat", "/tmp/said"])).stdout).toBe("last words\nmore\n");
});

test("execs with streams outlive their daemon as they outlive a client", async () => {
  const wants = { stdin: true, stdout: true };
  const live = await pod.execLive(
    id,
    ["sh", "-c", "echo ready; cat; sleep 0.5; echo end >/tmp/outlived"],
    wants,
  );
  await new Promise((resolve) => live.io?.once("data", resolve));
  pod.monitor.disconnect();
  live.close();
  expect(await live.ended.catch((error) => error.code)).toBe("Unavailable");
  await pod.adopt();
  await until("it has ended well", () => {
    try {
      return readFileSync(`${pod.root}/rootfs/tmp/outlived`, "utf8") === "end\n";
    } catch {
      return false;
    }
  });
});

test("a caller that is gone takes its exec along", async () => {
  const abort = new AbortController();
  const running = pod.exec(id, ["sh", "-c", "sleep 6543 & sleep 6543"], { signal: abort.signal });
  await until("it runs", () => findProcess("sleep", "6543"));
  abort.abort();
  expect(await running).toMatchObject({ exitCode: 137, signal: 9 });
  await until("it is gone", () => findProcess("sleep", "6543") === undefined);
});

test("100 at once, each with its own", async () => {
  const all = Array.from({ length: 100 }, async (_, index) => {
    const wants = { stdin: true, stdout: true, stderr: true };
    const live = await pod.execLive(
      id,
      ["sh", "-c", "read x; echo $x; echo e$x >&2; exit $x"],
      wants,
    );
    live.io?.write(`${index}\n`);
    const result = await Promise.all([read(live.io), read(live.stderr), live.ended]);
    live.close();
    expect(result).toMatchObject([`${index}\n`, `e${index}\n`, { exitCode: index }]);
  });
  await Promise.all(all);
}, 120_000);

test("500 execs leave no descriptor, no child and no memory behind", async () => {
  const memory = () => Number(/RssAnon:\s+(\d+)/.exec(monitorFile("status"))?.[1]);
  const task = `task/${pod.monitor.pid}/children`;
  const quiet = () =>
    until("only the container is a child", () => monitorFile(task).trim().split(" ").length === 1);
  const round = async (tty: boolean) => {
    const wants = { stdin: true, stdout: true, stderr: !tty, tty };
    const live = await pod.execLive(id, ["echo", "x"], wants);
    await read(live.io);
    await live.ended;
    live.close();
  };
  await round(false);
  await quiet();
  await Bun.sleep(2500); // the monitor gives its buffers back when it is idle
  const before = { descriptors: descriptors(), memory: memory() };
  for (let count = 0; count < 100; count++) {
    await Promise.all([false, true, false, false, true].map(round));
  }
  await quiet();
  await Bun.sleep(2500);
  expect(descriptors()).toBe(before.descriptors);
  expect(memory() - before.memory).toBeLessThan(32);
}, 120_000);

test("a container's log does not see its execs", () => {
  expect(parseLog(pod.log(id))).toEqual([]);
});
