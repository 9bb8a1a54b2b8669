/** Logs that cannot be written: the container goes on, what is lost is counted and told. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { until } from "../fixtures/until.ts";
import { buildMonitor, parseLog, TestPod } from "./monitor-harness.ts";

let pod: TestPod;

beforeAll(async () => {
  pod = await TestPod.start(buildMonitor());
});
afterAll(async () => pod.dispose());

/** The number of bytes of which the log says that they are missing. */
function missingBytes(text: string): bigint {
  const gaps = text.matchAll(/ F \[crib: (\d+) bytes of output are missing here: /g);
  return [...gaps].reduce((sum, [, bytes = ""]) => sum + BigInt(bytes), 0n);
}

/** A pipe through which a container that runs `LISTEN` is told what to print. */
function teller(name: string): { path: string; say(line: string): void } {
  const path = pod.path(name);
  expect(spawnSync("mkfifo", [path]).status).toBe(0);
  // For both directions: neither end waits for the other to be opened.
  const fd = openSync(path, "r+");
  return { path, say: (line) => writeSync(fd, `${line}\n`) };
}

const LISTEN =
  "while read -r line; do echo $line; [ $line = end ] && exit 3; done < /tmp/fifo; exit 4";

test("a full disk stops neither container nor monitor, and the log goes on at a whole line", async () => {
  const disk = pod.path("disk");
  mkdirSync(disk);
  expect(spawnSync("mount", ["-t", "tmpfs", "-o", "size=256k", "none", disk]).status).toBe(0);
  try {
    writeFileSync(`${disk}/ballast`, Buffer.alloc(240 << 10));
    const script =
      "i=0; while [ $i -lt 3000 ]; do echo line number $i is here; i=$((i+1)); done; cat";
    const release = pod.path("release");
    spawnSync("mkfifo", [release]);
    const id = await pod.run({
      args: ["sh", "-c", `${script} < /tmp/fifo; echo at last`],
      binds: [[release, "/tmp/fifo"]],
      logPath: `${disk}/log`,
    });
    // The pipe opens when the container got through all of its output: more than disk and stdout
    // can hold together.
    const feed = `exec 3> ${release}; rm ${disk}/ballast; echo x >&3`;
    const fifo = Bun.spawn(["sh", "-c", feed]);
    await fifo.exited;
    const exit = await pod.exited(id);
    expect(exit.exitCode).toBe(0);
    expect(exit.droppedLogBytes > 0n).toBe(true);
    const records = parseLog(readFileSync(`${disk}/log`, "utf8"));
    expect(records.at(-1)?.content).toBe("at last");
    for (const { stream, content } of records) {
      if (stream === "stderr" || content.startsWith("[crib: ")) continue;
      expect(content).toMatch(/^(line number \d+ is here|x|at last)$/);
    }
    expect(missingBytes(readFileSync(`${disk}/log`, "utf8"))).toBe(exit.droppedLogBytes);
    expect(readFileSync(`${pod.directory}/monitor.log`, "utf8")).toContain(
      "bytes of output are not in its log",
    );
  } finally {
    spawnSync("umount", ["-l", disk]);
  }
});

test("a directory that vanishes costs what is written meanwhile, and the log is made anew", async () => {
  const fifo = teller("vanish");
  const directory = pod.path("logs/pod");
  mkdirSync(directory, { recursive: true });
  const id = await pod.run({
    args: ["sh", "-c", LISTEN],
    binds: [[fifo.path, "/tmp/fifo"]],
    logPath: `${directory}/0.log`,
  });
  fifo.say("before");
  await until("the first line", () => readFileSync(`${directory}/0.log`, "utf8") !== "");
  rmSync(pod.path("logs"), { recursive: true });
  const dropped = async () =>
    (await pod.monitor.list()).find((record) => record.id === id)?.droppedLogBytes ?? 0n;
  while ((await dropped()) === 0n) {
    fifo.say("lost");
    await Bun.sleep(50);
  }
  expect(existsSync(directory)).toBe(false);
  mkdirSync(directory, { recursive: true });
  await until("the log again", () => {
    fifo.say("again");
    return existsSync(`${directory}/0.log`);
  });
  fifo.say("end");
  const exit = await pod.exited(id);
  expect(exit.exitCode).toBe(3);
  const text = readFileSync(`${directory}/0.log`, "utf8");
  const contents = parseLog(text).map((record) => record.content);
  expect(contents[0]).toEndWith("bytes of output are missing here: the log file was removed]");
  expect(contents.at(-1)).toBe("end");
  expect(missingBytes(text)).toBe(exit.droppedLogBytes);
  expect(readFileSync(`${pod.directory}/monitor.log`, "utf8")).toContain(
    `${id}: output is lost: log ${directory}/0.log: it was removed`,
  );
});

test("a limited log keeps whole lines, tells what is missing, and the container is not held up", async () => {
  const count = 300_000;
  const id = await pod.run({ args: ["seq", "1", `${count}`], logBytesPerSecond: 100_000 });
  const exit = await pod.exited(id);
  expect(exit.exitCode).toBe(0);
  const text = pod.log(id);
  const lines = parseLog(text)
    .map(({ content }) => content)
    .filter((content) => !content.startsWith("[crib: "));
  const numbers = lines.map(Number);
  expect(numbers[0]).toBe(1);
  expect(numbers.every((number, i) => i === 0 || number > (numbers[i - 1] ?? 0))).toBe(true);
  expect(numbers.length).toBeLessThan(count);
  const sizeOf = (all: string[]) => BigInt(all.reduce((sum, line) => sum + line.length + 1, 0));
  const printed = sizeOf(Array.from({ length: count }, (_, i) => `${i + 1}`));
  expect(sizeOf(lines) + missingBytes(text)).toBe(printed);
  expect(missingBytes(text)).toBe(exit.droppedLogBytes);
});
