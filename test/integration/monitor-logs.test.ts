/** The CRI logs that a monitor writes for real containers. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { until } from "../fixtures/until.ts";
import { buildMonitor, parseLog, TestPod } from "./monitor-harness.ts";

let pod: TestPod;

beforeAll(async () => {
  pod = await TestPod.start(buildMonitor());
});
afterAll(async () => pod.dispose());

test("lines of both streams are whole and in order", async () => {
  const script = "i=0; while [ $i -lt 500 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done";
  const id = await pod.run({ args: ["sh", "-c", script] });
  await pod.exited(id);
  const records = parseLog(pod.log(id));
  expect(records.length).toBe(1000);
  for (const [stream, word] of [
    ["stdout", "out"],
    ["stderr", "err"],
  ]) {
    const lines = records.filter((record) => record.stream === stream);
    expect(lines.map((line) => line.content)).toEqual(
      Array.from({ length: 500 }, (_, i) => `${word} ${i}`),
    );
    expect(lines.every((line) => line.tag === "F")).toBe(true);
  }
});

test("a last line without a newline is kept", async () => {
  const id = await pod.run({ args: ["printf", "first\\nlast"] });
  await pod.exited(id);
  expect(parseLog(pod.log(id))).toEqual([
    { stream: "stdout", tag: "F", content: "first" },
    { stream: "stdout", tag: "F", content: "last" },
  ]);
});

test("empty lines and bytes that are no UTF-8 are kept", async () => {
  const id = await pod.run({ args: ["printf", "\\n\\n\\377\\376\\r\\n"] });
  await pod.exited(id);
  const records = readFileSync(pod.logPath(id)).toString("latin1").split("\n");
  expect(records.map((record) => record.slice(40))).toEqual(["", "", "\xff\xfe\r", ""]);
});

test("a line of 1 MB is cut into 16 KiB pieces that make it up", async () => {
  const id = await pod.run({
    args: ["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo end"],
    binds: [["/dev/zero", "/dev/zero"]],
  });
  await pod.exited(id);
  const records = parseLog(pod.log(id));
  expect(records.at(-1)?.content).toBe("end");
  const pieces = records.slice(0, -1);
  expect(pieces.map((piece) => piece.content).join("")).toBe("x".repeat(1_000_000));
  expect(pieces.slice(0, -1).every((p) => p.tag === "P" && p.content.length === 16384)).toBe(true);
  expect(pieces.at(-1)?.tag).toBe("F");
});

test("reopening under load loses nothing and tears no line", async () => {
  const count = 200_000;
  const id = await pod.run({ args: ["seq", "1", `${count}`] });
  const parts: string[] = [];
  while (!pod.exits.has(id)) {
    const part = pod.path(`${id}.log.${parts.length}`);
    renameSync(pod.logPath(id), part);
    parts.push(part);
    await pod.monitor.reopenLog(id).catch(() => {});
    await until("the log is there again", () => {
      if (pod.exits.has(id)) return true;
      try {
        return readFileSync(pod.logPath(id)) !== undefined;
      } catch {
        return false;
      }
    });
  }
  let text = parts.map((part) => readFileSync(part, "utf8")).join("");
  try {
    text += pod.log(id);
  } catch {
    // The last rename came after the end: there was nothing left to write.
  }
  const numbers = parseLog(text).map((record) => Number(record.content));
  expect(parts.length).toBeGreaterThan(1);
  expect(numbers.length).toBe(count);
  expect(numbers.every((number, i) => number === i + 1)).toBe(true);
});

/**
 * Numbers on both streams, some in lines of several pieces, until there is the file $0. A signal would
 * interrupt what it is just writing.
 */
const COUNTING = [
  "i=0",
  "while [ ! -e $0 ]; do",
  "if [ $((i % 40)) = 0 ]; then printf '%040000d\\n' $i; else echo $i; fi",
  "[ $((i % 3)) = 0 ] && echo $i >&2",
  "i=$((i+1))",
  "done",
].join("\n");

/** The numbers of a stream's lines, which are put together from their pieces. */
function numbersOf(text: string, of: string): number[] {
  let line = "";
  const numbers: number[] = [];
  for (const { stream, tag, content } of parseLog(text)) {
    if (stream !== of) continue;
    line += content;
    if (tag === "P") continue;
    const number = Number(line);
    expect(line.trimEnd().length).toBe(line.length > 10 ? 40_000 : `${number}`.length);
    numbers.push(number);
    line = "";
  }
  expect(line).toBe("");
  return numbers;
}

test.each([false, true])(
  "a hundred rotations under load lose, double and tear nothing (tty: %p)",
  async (tty) => {
    const stop = `/tmp/stop-${tty}`;
    const id = await pod.run({ args: ["sh", "-c", COUNTING, stop], tty });
    const parts: string[] = [];
    await until("its first lines", () => pod.log(id).length > 100_000);
    for (let rotation = 0; rotation < 100; rotation++) {
      const part = pod.path(`${id}.log.${rotation}`);
      renameSync(pod.logPath(id), part);
      parts.push(part);
      await pod.monitor.reopenLog(id);
      await until("more", () => pod.log(id).length > 20_000);
    }
    writeFileSync(pod.path(`rootfs${stop}`), "");
    await pod.exited(id);
    const text = [...parts, pod.logPath(id)].map((part) => readFileSync(part, "utf8")).join("");
    const out = numbersOf(text, "stdout");
    if (!tty) {
      expect(out).toEqual(out.map((_, index) => index));
      const err = numbersOf(text, "stderr");
      expect(err).toEqual(err.map((_, index) => index * 3));
      expect(err.length).toBe(Math.ceil(out.length / 3));
      return;
    }
    // A terminal has one stream: each third number comes twice.
    const numbers = Array.from({ length: (out.at(-1) ?? 0) + 1 }, (_, index) => index);
    expect(out).toEqual(numbers.flatMap((n) => (n % 3 === 0 ? [n, n] : [n])));
  },
  60_000,
);

test("the log of a container that closed its output can be rotated too", async () => {
  const id = await pod.run({ args: ["sh", "-c", "echo x; exec sleep 1000 >/tmp/o 2>/tmp/e"] });
  await until("the line", () => pod.log(id).includes("x"));
  await until("the end of its output", () => {
    const fds = readdirSync(`/proc/${pod.monitor.pid}/fd`);
    return !fds.some((fd) => linkOf(`/proc/${pod.monitor.pid}/fd/${fd}`) === pod.logPath(id));
  });
  renameSync(pod.logPath(id), pod.path("rotated.log"));
  await pod.monitor.reopenLog(id);
  expect(pod.log(id)).toBe("");
  await pod.monitor.kill(id, 9);
  await pod.exited(id);
});

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}

test("a reopen that fails keeps the old file", async () => {
  const id = await pod.run({
    args: ["sh", "-c", "echo before; sleep 1; echo after"],
  });
  await until("the first line", () => pod.log(id).includes("before"));
  renameSync(pod.logPath(id), pod.path("kept.log"));
  mkdirSync(pod.logPath(id));
  await expect(pod.monitor.reopenLog(id)).rejects.toThrow("Is a directory");
  await pod.exited(id);
  expect(parseLog(readFileSync(pod.path("kept.log"), "utf8")).map((r) => r.content)).toEqual([
    "before",
    "after",
  ]);
});

test("without a log path the output is discarded and the container runs through", async () => {
  const id = await pod.run({ args: ["seq", "1", "100000"], logPath: "" });
  expect(await pod.exited(id)).toMatchObject({ exitCode: 0, droppedLogBytes: 0n });
});

test("a log path that is a pipe is refused, not waited for", async () => {
  const fifo = pod.path("fifo");
  spawnSync("mkfifo", [fifo]);
  const request = pod.createRequest("piped", { args: ["true"], logPath: fifo });
  const created = await pod.monitor.create(request);
  expect(created.pid).toBe(0);
  expect(created.startError).toStartWith(`log ${fifo}: `);
});

test("a descendant that holds stdout open does not hold the exit back", async () => {
  const id = await pod.run({
    args: ["sh", "-c", "(sleep 1000) & echo gone; exit 4"],
    namespaces: [{ type: "mount" }, { type: "ipc" }],
  });
  expect(await pod.exited(id)).toMatchObject({ exitCode: 4 });
  expect(parseLog(pod.log(id)).map((record) => record.content)).toEqual(["gone"]);
});
