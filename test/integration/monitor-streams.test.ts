/** Execs with live streams, through a real monitor and runc. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { buildMonitor, read, TestPod } from "./monitor-harness.ts";

let pod: TestPod;
let id: string;

beforeAll(async () => {
  pod = await TestPod.start(buildMonitor());
  id = await pod.run({ args: ["sleep", "100000"] });
});
afterAll(async () => pod.dispose());

test("output, exit code and streams come back", async () => {
  const live = await pod.execLive(id, ["sh", "-c", "echo out; echo err >&2; exit 5"]);
  const [out, err, result] = await Promise.all([read(live.io), read(live.stderr), live.ended]);
  expect([out, err]).toEqual(["out\n", "err\n"]);
  expect(result).toMatchObject({ exitCode: 5, signal: 0, runtimeFailed: false });
});

test("what a client says is read, and its end", async () => {
  const live = await pod.execLive(id, ["cat"], { stdin: true, stdout: true, stderr: true });
  const text = "x".repeat(3_000_000);
  live.io?.end(text);
  expect((await read(live.io)).length).toBe(text.length);
  expect(await live.ended).toMatchObject({ exitCode: 0 });
});

test("a terminal is one, has its size, and hears the client", async () => {
  const wants = { stdin: true, stdout: true, tty: true };
  const live = await pod.execLive(id, ["sh", "-c", "tty; read x; stty size; echo got $x"], wants);
  live.resize({ columns: 101, rows: 37 });
  live.io?.write("hello\n");
  const out = await read(live.io);
  expect(out).toContain("/dev/pts/");
  expect(out).toContain("37 101\r\n");
  expect(out).toContain("got hello\r\n");
  expect(await live.ended).toMatchObject({ exitCode: 0 });
  live.close();
});
