/** Attaching to containers of a real monitor and runc. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync, statSync } from "node:fs";
import type { Live } from "../../src/monitor/client.ts";
import { until } from "../fixtures/until.ts";
import { buildMonitor, parseLog, read, TestPod } from "./monitor-harness.ts";

let pod: TestPod;

beforeAll(async () => {
  pod = await TestPod.start(buildMonitor());
});
afterAll(async () => pod.dispose());

const OUTPUT = { stdin: false, stdout: true, stderr: true, tty: false };
const ALL = { ...OUTPUT, stdin: true };
const TERMINAL = { stdin: true, stdout: true, stderr: false, tty: true };

const code = (promise: Promise<unknown>) =>
  promise.then(
    () => "ok",
    (error: { code: string }) => error.code,
  );

/** Keeps what comes, so that it can be asked for. */
function listen(live: Live<void>): { text(): string; until(part: string): Promise<unknown> } {
  let text = "";
  live.io?.on("data", (chunk) => {
    text += chunk;
  });
  return {
    text: () => text,
    until: (part) => until(`${part} in ${text}`, () => text.includes(part)),
  };
}

const log = (id: string) => parseLog(pod.log(id)).map(({ content }) => content);

test("a client sees what comes from now on, each stream on its own, until the end", async () => {
  const script = "echo before; read x; echo out $x; echo err $x >&2; exit 3";
  const id = await pod.run({ args: ["sh", "-c", script], stdin: true });
  await until("its first line", () => log(id).includes("before"));
  const live = await pod.monitor.attach(id, ALL);
  live.io?.write("hello\n");
  const [out, err] = await Promise.all([read(live.io), read(live.stderr), live.ended]);
  expect([out, err]).toEqual(["out hello\n", "err hello\n"]);
  expect(await pod.exited(id)).toMatchObject({ exitCode: 3 });
  expect(log(id)).toEqual(["before", "out hello", "err hello"]);
  live.close();
});

test("several clients see the same, and all may speak; one that leaves is not missed", async () => {
  const id = await pod.run({
    args: ["sh", "-c", "while read x; do echo got $x; done"],
    stdin: true,
  });
  const lives = await Promise.all(Array.from({ length: 5 }, () => pod.monitor.attach(id, ALL)));
  const heard = lives.map(listen);
  for (const [index, live] of lives.entries()) {
    live.io?.write(`${index}\n`);
    for (const each of heard) await each.until(`got ${index}\n`);
  }
  const [first, second, ...others] = lives;
  first?.close();
  expect(await first?.ended).toBeUndefined();
  second?.io?.end();
  others[0]?.io?.write("still there\n");
  for (const each of heard.slice(1)) await each.until("got still there\n");
  expect(heard[0]?.text()).not.toContain("still there");
  for (const live of lives) live.close();
  await pod.monitor.list();
  const late = await pod.monitor.attach(id, ALL);
  const ear = listen(late);
  late.io?.write("late\n");
  await ear.until("got late\n");
  expect(ear.text()).toBe("got late\n");
  late.close();
  await pod.monitor.kill(id, 9);
  await pod.exited(id);
});

test("with stdin_once the first client's end is the container's", async () => {
  for (const leave of [(live: Live<void>) => live.io?.end(), (live: Live<void>) => live.close()]) {
    const id = await pod.run({
      args: ["sh", "-c", "cat; echo the end"],
      stdin: true,
      stdinOnce: true,
    });
    const silent = await pod.monitor.attach(id, OUTPUT);
    silent.close();
    const live = await pod.monitor.attach(id, ALL);
    const sent = Promise.withResolvers<void>();
    live.io?.write("x".repeat(300_000), () => sent.resolve());
    live.io?.resume();
    await sent.promise;
    leave(live);
    expect(await pod.exited(id)).toMatchObject({ exitCode: 0 });
    expect(log(id).join("")).toBe(`${"x".repeat(300_000)}the end`);
    live.close();
  }
});

test("without it the container's stdin stays open when clients end", async () => {
  const id = await pod.run({ args: ["cat"], stdin: true });
  for (const word of ["one\n", "two\n"]) {
    const live = await pod.monitor.attach(id, ALL);
    live.io?.end(word);
    await until("it comes back", () => log(id).includes(word.trim()));
    live.close();
  }
  await pod.monitor.kill(id, 9);
  expect(await pod.exited(id)).toMatchObject({ signal: 9 });
});

test("a container with a terminal: its log, its size, its clients", async () => {
  const script = "stty size; while read x; do echo got $x; stty size; done";
  const id = await pod.run({ args: ["sh", "-c", script], stdin: true, tty: true, start: false });
  const live = await pod.monitor.attach(id, TERMINAL);
  const ear = listen(live);
  live.resize({ columns: 90, rows: 30 });
  await pod.monitor.list();
  pod.start(id);
  await ear.until("30 90\r\n");
  live.io?.write("hi\n");
  await ear.until("got hi\r\n");
  live.resize({ columns: 91, rows: 31 });
  live.io?.write("again\n");
  await ear.until("31 91\r\n");
  live.io?.end();
  const other = await pod.monitor.attach(id, TERMINAL);
  const otherEar = listen(other);
  other.io?.write("me too\n");
  await otherEar.until("got me too\r\n");
  await ear.until("got me too\r\n");
  live.close();
  other.io?.write("\x04");
  await other.ended;
  expect(await pod.exited(id)).toMatchObject({ exitCode: 0 });
  const streams = parseLog(pod.log(id));
  expect(new Set(streams.map(({ stream }) => stream))).toEqual(new Set(["stdout"]));
  expect(streams.map(({ content }) => content)).toContain("got me too\r");
  other.close();
});

test("a terminal that nobody has open for a while is still one", async () => {
  const script =
    "echo one; exec >/dev/null 2>&1 </dev/null; sleep 0.3; echo two >/dev/console; sleep 0.2";
  const id = await pod.run({ args: ["sh", "-c", script], tty: true });
  expect(await pod.exited(id)).toMatchObject({ exitCode: 0 });
  expect(log(id)).toEqual(["one\r", "two\r"]);
});

test("a client that does not read holds up nobody, and is cut off", async () => {
  const id = await pod.run({
    args: ["sh", "-c", "read x; seq 1 1000000; sleep 1000"],
    stdin: true,
  });
  const stalled = await pod.monitor.attach(id, ALL);
  stalled.io?.pause();
  const reader = await pod.monitor.attach(id, OUTPUT);
  const ear = listen(reader);
  const other = await pod.run({ args: ["sh", "-c", "seq 1 1000; sleep 1000"] });
  stalled.io?.write("\n");
  await until("other containers' logs go on", () => log(other).length === 1000);
  expect(await code(stalled.ended)).toBe("ResourceExhausted");
  await ear.until("\n1000000\n");
  expect(ear.text().length).toBe(6_888_896);
  await until("the log is whole", () => log(id).at(-1) === "1000000");
  stalled.close();
  reader.close();
  for (const each of [id, other]) {
    await pod.monitor.kill(each, 9);
    await pod.exited(each);
  }
}, 30_000);

test("a client that reads slowly misses nothing", async () => {
  const id = await pod.run({ args: ["sh", "-c", "read x; seq 1 500000"], stdin: true });
  const live = await pod.monitor.attach(id, ALL);
  let bytes = 0;
  live.io?.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    live.io?.pause();
    setTimeout(() => live.io?.resume(), 50);
  });
  live.io?.write("\n");
  await new Promise((resolve) => live.io?.once("end", resolve));
  expect(bytes).toBe(3_388_895);
  await live.ended;
  live.close();
}, 30_000);

test("a client that reads too slowly is cut off and told, and the log is whole", async () => {
  const script = "read x; i=0; while [ $i -lt 5 ]; do seq 1 200000; i=$((i+1)); done; sleep 1000";
  const id = await pod.run({ args: ["sh", "-c", script], stdin: true });
  const live = await pod.monitor.attach(id, ALL);
  // It never stops, but at this pace the whole would take minutes.
  const timers = new Set<Timer>();
  live.io?.on("data", () => {
    live.io?.pause();
    timers.add(setTimeout(() => live.io?.resume(), 2_000));
  });
  live.io?.write("\n");
  expect(await code(live.ended)).toBe("ResourceExhausted");
  // 40 bytes before each line.
  const whole = 5 * (200_000 * 40 + 1_288_895);
  await until("the log is whole", () => statSync(pod.logPath(id)).size === whole);
  live.close();
  for (const timer of timers) clearTimeout(timer);
  await pod.monitor.kill(id, 9);
  await pod.exited(id);
}, 60_000);

test("a client that does not read does not keep a container from obeying its stop signal", async () => {
  const script = "trap 'seq 1 50000; exit 5' TERM; echo on; read x; while :; do seq 1 10000; done";
  const id = await pod.run({ args: ["sh", "-c", script], stdin: true });
  const live = await pod.monitor.attach(id, ALL);
  live.io?.pause();
  await until("it runs", () => log(id).includes("on"));
  live.io?.write("\n");
  await until("it has begun", () => log(id).length > 50_000);
  await pod.monitor.kill(id, 15);
  expect(await pod.exited(id)).toMatchObject({ exitCode: 5 });
  expect(log(id).at(-1)).toBe("50000");
  live.close();
}, 60_000);

test("what a client that has gone said to a container that does not listen is dropped in the end", async () => {
  const id = await pod.run({ args: ["sleep", "1000"], stdin: true });
  const descriptors = () => readdirSync(`/proc/${pod.monitor.pid}/fd`).length;
  const before = descriptors();
  for (let client = 0; client < 20; client++) {
    const live = await pod.monitor.attach(id, ALL);
    live.io?.write("x".repeat(200_000));
    live.io?.end();
    await Bun.sleep(10);
    live.close();
  }
  await until("no more descriptors than before", () => descriptors() === before);
  await pod.monitor.kill(id, 9);
  await pod.exited(id);
}, 30_000);

test("a stalled client does not delay a container's end, nor lose its last words", async () => {
  const id = await pod.run({ args: ["sh", "-c", "read x; seq 1 30000; exit 4"], stdin: true });
  const live = await pod.monitor.attach(id, ALL);
  live.io?.pause();
  live.io?.write("\n");
  expect(await pod.exited(id)).toMatchObject({ exitCode: 4 });
  expect(log(id).length).toBe(30_000);
  await live.ended;
  expect((await read(live.io)).length).toBe(168_894);
  live.close();
});

test("attaching is refused where there is nothing to attach to", async () => {
  const id = await pod.run({ args: ["sleep", "1000"] });
  const refusal = async (container: string, wants = OUTPUT) =>
    code((await pod.monitor.attach(container, wants)).ended);
  expect(await refusal("nobody")).toBe("NotFound");
  expect(await refusal(id, ALL)).toBe("FailedPrecondition");
  await pod.monitor.kill(id, 9);
  await pod.exited(id);
  expect(await refusal(id)).toBe("FailedPrecondition");
});

test("a daemon that goes takes its clients along, and a new one finds the container as it was", async () => {
  const id = await pod.run({ args: ["cat"], stdin: true });
  const live = await pod.monitor.attach(id, ALL);
  pod.monitor.disconnect();
  live.close();
  expect(await code(live.ended)).toBe("Unavailable");
  await pod.adopt();
  const again = await pod.monitor.attach(id, ALL);
  const ear = listen(again);
  again.io?.write("back\n");
  await ear.until("back\n");
  again.close();
  await pod.monitor.kill(id, 9);
  await pod.exited(id);
});

test("many attaches leave nothing behind", async () => {
  const id = await pod.run({ args: ["cat"], stdin: true, tty: true });
  const descriptors = () => readdirSync(`/proc/${pod.monitor.pid}/fd`).length;
  const before = descriptors();
  for (let round = 0; round < 20; round++) {
    const lives = await Promise.all(
      Array.from({ length: 20 }, () => pod.monitor.attach(id, TERMINAL)),
    );
    for (const live of lives) live.close();
    await Promise.all(lives.map((live) => live.ended));
  }
  await until("no more descriptors than before", () => descriptors() === before);
  await pod.monitor.kill(id, 9);
  await pod.exited(id);
});
