/** What a monitor does when its daemon goes, comes back, or misbehaves. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { adoptMonitor } from "../../src/monitor/adopt.ts";
import { Monitor } from "../../src/monitor/client.ts";
import { readExitRecords } from "../../src/monitor/exits.ts";
import { FrameParser } from "../../src/monitor/frame.ts";
import {
  Answer,
  encodeEmpty,
  encodeExec,
  encodeHello,
  Request,
} from "../../src/monitor/protocol.ts";
import { startMonitor } from "../../src/monitor/start.ts";
import { until } from "../fixtures/until.ts";
import { buildMonitor, DEADLINE_MS, findProcess, parseLog, TestPod } from "./monitor-harness.ts";

let binary: string;
let pod: TestPod;

beforeAll(async () => {
  binary = buildMonitor();
  pod = await TestPod.start(binary);
});
afterAll(async () => pod.dispose());

async function adopt(): Promise<void> {
  pod.monitor = await adoptMonitor(pod.directory, DEADLINE_MS);
  pod.listen();
}

/** Bun's `expect().rejects` blocks until the promise settles; this does not. */
const outcome = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "resolved",
    (error: { code: string }) => error.code,
  );

test("a daemon that went and came back finds everything", async () => {
  const gone = await pod.run({ args: ["sh", "-c", "sleep 0.5; echo meanwhile; exit 9"] });
  const stays = await pod.run({ args: ["sh", "-c", "echo one; sleep 1.5; echo two; sleep 100"] });
  const { pid } = pod.monitor;
  pod.monitor.disconnect();
  await pod.monitor.closed;
  await until("the exit record", () => readdirSync(`${pod.directory}/exits`).includes(gone));
  await adopt();
  expect(pod.monitor.pid).toBe(pid);
  expect(pod.monitor.podId).toBe("testpod");
  const records = await pod.monitor.list();
  expect(records.find((record) => record.id === gone)?.exit).toMatchObject({ exitCode: 9 });
  expect(records.find((record) => record.id === stays)).toMatchObject({ id: stays });
  expect(records.find((record) => record.id === stays)?.exit).toBeUndefined();
  expect(parseLog(pod.log(gone)).map((record) => record.content)).toEqual(["meanwhile"]);
  await until("its log goes on", () => pod.log(stays).includes("two"));
  expect((await pod.exec(stays, ["echo", "hello"])).stdout).toBe("hello\n");
  await pod.monitor.kill(stays, 15);
  await pod.monitor.kill(stays, 9);
  expect(await pod.exited(stays)).toMatchObject({ exitCode: 137 });
});

test("a creation whose daemon vanished is finished and can be adopted", async () => {
  const request = pod.createRequest("orphan", { args: ["true"] });
  const script = `sleep 0.5; sleep 100 & echo $! > ${request.pidFile}`;
  const creation = pod.monitor.create({ ...request, argv: ["/bin/sh", "-c", script] });
  const failed = outcome(creation);
  await pod.monitor.list();
  pod.monitor.disconnect();
  expect(await failed).toBe("Unavailable");
  await adopt();
  const creating = (await pod.monitor.list()).find((record) => record.id === "orphan");
  expect(creating).toEqual({ id: "orphan", pid: 0, droppedLogBytes: 0n });
  for (;;) {
    const record = (await pod.monitor.list()).find(({ id }) => id === "orphan");
    if (record !== undefined && record.pid > 0) break;
    await Bun.sleep(20);
  }
  await pod.monitor.kill("orphan", 9);
  expect(await pod.exited("orphan")).toMatchObject({ exitCode: 137 });
});

test("the execs of a vanished daemon are killed", async () => {
  const id = await pod.run({ args: ["sleep", "1000"] });
  const running = pod.exec(id, ["sleep", "7654"]);
  const failed = outcome(running);
  const find = () => findProcess("sleep", "7654");
  await until("the exec runs", find);
  pod.monitor.disconnect();
  expect(await failed).toBe("Unavailable");
  await until("the exec is gone", () => find() === undefined);
  await adopt();
  await pod.monitor.kill(id, 9);
  await pod.exited(id);
});

test("the newest daemon replaces the one before", async () => {
  const old = pod.monitor;
  await adopt();
  await old.closed;
  await expect(old.list()).rejects.toMatchObject({ code: "Unavailable" });
  expect(await pod.monitor.list()).toBeArray();
});

test("a daemon that talks nonsense is cut off; the monitor lives on", async () => {
  const speak = (bytes: Uint8Array) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const socket = connect({ path: `${pod.directory}/monitor.sock`, allowHalfOpen: true });
    socket.on("error", () => {}); // it may cut us off while we write
    socket.on("close", () => resolve());
    socket.resume();
    socket.end(bytes);
    return promise;
  };
  await speak(new Uint8Array(64).fill(0xff));
  await speak(encodeHello(1).subarray(0, 5));
  const random = new Bun.CryptoHasher("sha256"); // the same bytes in every run
  for (let round = 0; round < 300; round++) {
    const bytes = new Uint8Array(200);
    for (let at = 0; at < 192; at += 32) bytes.set(random.update(`${at}`).copy().digest(), at);
    const hello = encodeHello(1);
    bytes.set(hello);
    // A frame of a known type with random fields.
    new DataView(bytes.buffer).setUint32(hello.length, 60, true);
    bytes.set([round % 10, 0, 0, 0], hello.length + 4);
    if (round % 10 === 8) continue; // that would be an honest shutdown
    await speak(bytes);
  }
  await adopt();
  expect((await pod.monitor.list()).some((record) => record.pid === 0)).toBe(false);
});

test("a daemon that does not read gets everything in the end, and stops no log", async () => {
  const id = await pod.run({ args: ["sh", "-c", "sleep 1; seq 1 100000; sleep 1000"] });
  pod.monitor.disconnect();
  const socket = connect({ path: `${pod.directory}/monitor.sock` });
  const exec = (request: number) =>
    encodeExec(request, {
      id,
      argv: ["/bin/busybox", "seq", "1", "1000000"],
      env: [],
      cwd: "/",
      pidFile: pod.path("none.pid"),
      timeoutMs: 0,
      drainMs: 100,
    });
  socket.pause();
  socket.write(encodeHello(1));
  // Two floods, and more requests than there is room for answers to.
  socket.write(exec(2));
  socket.write(exec(3));
  for (let request = 4; request < 20_000; request++) {
    socket.write(encodeEmpty(request, Request.list));
  }
  await until("the log is whole", () => pod.log(id).includes(" F 100000\n"));
  await Bun.sleep(500);
  const bytes = new Map([
    [2, 0],
    [3, 0],
  ]);
  const replies = new Set<number>();
  const all = Promise.withResolvers<void>();
  const parser = new FrameParser(({ type, request, payload }) => {
    if (type === Answer.execOutput)
      bytes.set(request, (bytes.get(request) ?? 0) + payload.length - 1);
    if ((type & 0xc000) === Answer.reply) replies.add(request);
    if (replies.size === 19_999) all.resolve();
  });
  socket.on("data", (chunk: Buffer) => parser.push(chunk));
  socket.resume();
  await all.promise;
  expect([...bytes.values()]).toEqual([6_888_896, 6_888_896]);
  socket.destroy();
  await adopt();
  await pod.monitor.kill(id, 9);
  await pod.exited(id);
});

test("a monitor without a free descriptor turns connections away, and is not kept busy by them", async () => {
  const { pid } = pod.monitor;
  const limit = (files: string) => spawnSync("prlimit", ["--pid", `${pid}`, `--nofile=${files}`]);
  const before = /Max open files +(\d+) +(\d+)/.exec(readFileSync(`/proc/${pid}/limits`, "utf8"));
  expect(limit(`${readdirSync(`/proc/${pid}/fd`).length}:`).status).toBe(0);
  const cpuNs = () => Number(readFileSync(`/proc/${pid}/schedstat`, "utf8").split(" ")[0]);
  const socket = connect({ path: `${pod.directory}/monitor.sock` });
  socket.on("error", () => undefined);
  await new Promise((resolve) => socket.once("close", resolve));
  const used = cpuNs();
  await Bun.sleep(500);
  expect(cpuNs() - used).toBeLessThan(100_000_000);
  expect(await pod.monitor.list()).toBeArray();
  expect(limit(`${before?.[1]}:${before?.[2]}`).status).toBe(0);
  await adopt();
  expect(pod.monitor.pid).toBe(pid);
});

test("what a listener throws does not cost the connection", async () => {
  const id = await pod.run({ args: ["sleep", "1000"] });
  const broken = pod.monitor.exec(
    {
      id,
      argv: ["/bin/busybox", "echo", "x"],
      env: [],
      cwd: "/",
      pidFile: pod.path("none.pid"),
      timeoutMs: 0,
      drainMs: 100,
    },
    {
      stdout() {
        throw new Error("receiver is broken");
      },
      stderr() {},
    },
  );
  expect(await broken.catch((error: Error) => error.message)).toBe("receiver is broken");
  pod.monitor.onExit(() => {
    throw new Error("listener is broken");
  });
  await pod.monitor.kill(id, 9);
  for (;;) {
    const record = (await pod.monitor.list()).find((one) => one.id === id);
    if (record?.exit !== undefined) break;
    await Bun.sleep(20);
  }
  pod.listen();
});

test("no signal but SIGKILL ends a monitor; its end is told, its records stay readable", async () => {
  const other = await TestPod.start(binary);
  try {
    const id = await other.run({ args: ["sh", "-c", "exit 3"] });
    const exit = await other.exited(id);
    for (const signal of [
      "SIGTERM",
      "SIGINT",
      "SIGHUP",
      "SIGUSR1",
      "SIGPIPE",
      "SIGXFSZ",
    ] as const) {
      process.kill(other.monitor.pid, signal);
    }
    expect((await other.monitor.list()).length).toBe(1);
    const pending = other.exec(id, ["true"]);
    const failed = outcome(pending);
    process.kill(other.monitor.pid, "SIGKILL");
    await other.monitor.closed;
    expect(await failed).toBe("Unavailable");
    await expect(other.monitor.list()).rejects.toMatchObject({ code: "Unavailable" });
    await expect(adoptMonitor(other.directory, 1000)).rejects.toMatchObject({
      code: "Unavailable",
    });
    expect(await readExitRecords(other.directory)).toEqual([exit]);
  } finally {
    await other.dispose();
  }
});

test("an exit is on disk before its log is complete", async () => {
  const other = await TestPod.start(binary);
  try {
    // In the PID namespace of the test, where a descendant outlives its container.
    const args = ["sh", "-c", "sleep 1000 & exit 7"];
    const id = await other.run({ args, namespaces: [{ type: "mount" }] });
    while ((await outcome(other.monitor.kill(id, 0))) === "resolved") await Bun.sleep(1);
    process.kill(other.monitor.pid, "SIGKILL");
    const [record] = await readExitRecords(other.directory);
    expect(record).toMatchObject({ id, exitCode: 7, logComplete: false });
  } finally {
    await other.dispose();
  }
});

test("an exit record that is damaged is left out, the others are read", async () => {
  const directory = pod.path("damaged");
  mkdirSync(`${directory}/exits`, { recursive: true });
  const good = {
    version: 1,
    id: "good",
    pid: 5,
    exitCode: 1,
    signal: 0,
    finishedAtNs: "1700000000000000001",
    oomKilled: false,
    droppedLogBytes: "0",
  };
  writeFileSync(`${directory}/exits/good`, JSON.stringify(good));
  writeFileSync(`${directory}/exits/empty`, "");
  writeFileSync(`${directory}/exits/other`, JSON.stringify(good));
  writeFileSync(`${directory}/exits/.half.tmp`, "{");
  expect(await readExitRecords(directory)).toEqual([
    {
      id: "good",
      exitCode: 1,
      signal: 0,
      finishedAtNs: 1700000000000000001n,
      oomKilled: false,
      droppedLogBytes: 0n,
    },
  ]);
  expect(await readExitRecords(pod.path("nowhere"))).toEqual([]);
});

test("a monitor that never answers is Unavailable within the deadline", async () => {
  const directory = pod.path("mute");
  mkdirSync(directory);
  const server = Bun.listen({ unix: `${directory}/monitor.sock`, socket: { data() {} } });
  await expect(Monitor.connect(directory, 200)).rejects.toMatchObject({ code: "DeadlineExceeded" });
  server.stop(true);
});

test("a directory whose path is longer than a socket's may be works", async () => {
  const directory = pod.path(`${"long/".repeat(40)}pod`);
  mkdirSync(directory, { recursive: true });
  const monitor = await startMonitor({
    podId: "long",
    directory,
    namespaces: {},
    sysctls: {},
    deadlineMs: DEADLINE_MS,
    binary,
  });
  expect(await monitor.list()).toEqual([]);
  await monitor.shutdown();
  await expect(adoptMonitor(directory, 1000)).rejects.toMatchObject({ code: "Unavailable" });
});
