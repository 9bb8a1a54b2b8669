/** Daemons and monitors of different versions. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { Monitor } from "../../src/monitor/client.ts";
import { FrameParser, FrameWriter } from "../../src/monitor/frame.ts";
import { Answer, PROTOCOL_VERSION, Request } from "../../src/monitor/protocol.ts";
import { openStream } from "../../src/monitor/stream.ts";
import { buildMonitor, DEADLINE_MS, read, TestPod } from "./monitor-harness.ts";

let pod: TestPod;

beforeAll(async () => {
  pod = await TestPod.start(buildMonitor());
});
afterAll(async () => pod.dispose());

const MAGIC = 0x42495243;
const WANTS = { stdin: false, stdout: true, stderr: true, tty: false };
const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => "it worked",
    (error: { code: string; message: string }) => `${error.code}: ${error.message}`,
  );

/** A daemon that speaks for itself: sends frames, waits for the reply to the last one. */
class RawDaemon {
  readonly frames: Array<{ type: number; request: number; payload: Buffer }> = [];
  private constructor(readonly socket: Socket) {
    const parser = new FrameParser(({ payload, ...frame }) => {
      this.frames.push({ ...frame, payload: Buffer.from(payload) });
    });
    socket.on("data", (chunk: Buffer) => parser.push(chunk));
  }

  static async connect(version: number): Promise<RawDaemon> {
    const daemon = new RawDaemon(connect({ path: `${pod.directory}/monitor.sock` }));
    const hello = new FrameWriter().u32("magic", MAGIC).u16(version);
    await daemon.ask(hello, Request.hello, 1);
    return daemon;
  }

  async ask(writer: FrameWriter, type: number, request: number) {
    this.socket.write(writer.frame(type, request));
    for (;;) {
      const reply = this.frames.find(
        (frame) => frame.request === request && frame.type !== Answer.execOutput,
      );
      if (reply !== undefined) return reply;
      await Bun.sleep(5);
    }
  }
}

test.each([
  [1, 1],
  [PROTOCOL_VERSION, PROTOCOL_VERSION],
  [99, PROTOCOL_VERSION],
])("a daemon of version %d is answered in version %d", async (asked, answered) => {
  const daemon = await RawDaemon.connect(asked);
  expect(daemon.frames[0]?.type).toBe(Answer.reply | Request.hello);
  expect(daemon.frames[0]?.payload.readUInt16LE(0)).toBe(answered);
  daemon.socket.destroy();
  await pod.adopt();
});

test("a daemon of version 1 creates, execs and hears of exits as ever", async () => {
  const id = "of-1";
  const request = pod.createRequest(id, { args: ["sh", "-c", "echo hi; exit 6"] });
  const daemon = await RawDaemon.connect(1);
  const create = new FrameWriter()
    .string("id", id)
    .string("cwd", request.cwd)
    .string("logPath", request.logPath)
    .string("pidFile", request.pidFile)
    .string("oomFile", request.oomFile)
    .u32("flags", 0)
    .u32("deadlineMs", DEADLINE_MS)
    .u32("drainMs", 1000)
    .list("argv", request.argv)
    .list("env", request.env);
  const created = await daemon.ask(create, Request.create, 2);
  expect([created.type, created.payload.readUInt32LE(0)]).toEqual([
    Answer.reply | Request.create,
    0,
  ]);
  const exec = new FrameWriter()
    .string("id", id)
    .string("cwd", "/")
    .string("pidFile", pod.path("none.pid"))
    .u32("flags", 0)
    .u32("timeoutMs", 0)
    .u32("drainMs", 100)
    .list("argv", ["/bin/echo", "in a frame"])
    .list("env", []);
  expect((await daemon.ask(exec, Request.exec, 3)).type).toBe(Answer.reply | Request.exec);
  const output = daemon.frames.filter(({ type }) => type === Answer.execOutput);
  expect(output.map(({ payload }) => payload.subarray(1).toString()).join("")).toBe("in a frame\n");
  pod.containers.push(id);
  pod.start(id);
  await daemon.ask(new FrameWriter(), Request.list, 4);
  while (!daemon.frames.some(({ type }) => type === Answer.exit)) await Bun.sleep(10);
  daemon.socket.destroy();
  await pod.adopt();
  const known = (await pod.monitor.list()).find((record) => record.id === id);
  expect(known?.exit).toMatchObject({ exitCode: 6 });
});

test("a daemon that comes while another's request looks for its stream takes over in good order", async () => {
  const { pid } = pod.monitor;
  const first = await RawDaemon.connect(PROTOCOL_VERSION);
  const opened = Array.from({ length: 30 }, () => openStream(pod.directory, DEADLINE_MS));
  const streams = await Promise.all(opened);
  await first.ask(new FrameWriter(), Request.list, 2);
  process.kill(pid, "SIGSTOP");
  // When the monitor looks again the request comes first; then the ends of streams, more than it takes at
  // once; and the other daemon, which it finds when it looks for the stream, which never comes.
  const dial = new FrameWriter().u32("stream", 77).u32("port", 80).u32("deadlineMs", 1000);
  const list = new FrameWriter().frame(Request.list, 4);
  first.socket.write(Buffer.concat([dial.frame(Request.dial, 3), list, list, list]));
  for (const stream of streams) stream.socket.destroy();
  await Bun.sleep(50);
  const second = RawDaemon.connect(PROTOCOL_VERSION);
  await Bun.sleep(50);
  process.kill(pid, "SIGCONT");
  const { socket, frames } = await second;
  expect(frames[0]?.type).toBe(Answer.reply | Request.hello);
  socket.destroy();
  first.socket.destroy();
  await pod.adopt();
  expect(pod.monitor.pid).toBe(pid);
});

/** A monitor that says HELLO and nothing else; how many connections it got. */
async function fakeMonitor(name: string, version: number) {
  const directory = pod.path(name);
  mkdirSync(directory);
  let connections = 0;
  const server: Server = createServer((socket) => {
    connections += 1;
    const reply = new FrameWriter().u16(version).u16(0).u32("pid", 5).u32("pause", 0);
    socket.once("data", () => {
      socket.write(reply.string("pod", name).frame(Answer.reply | Request.hello, 1));
    });
    socket.on("error", () => undefined);
  });
  await new Promise<void>((resolve) => server.listen(`${directory}/monitor.sock`, resolve));
  const monitor = await Monitor.connect(directory, DEADLINE_MS);
  return { monitor, server, connections: () => connections };
}

test("a monitor of version 1 is told nothing that it would misread", async () => {
  const { monitor, server, connections } = await fakeMonitor("old", 1);
  const created = pod.createRequest("never", { args: ["true"], tty: true });
  const exec = { ...created, timeoutMs: 0, drainMs: 0 };
  const why = "this pod was started by an older Crib";
  for (const [what, attempt] of [
    ["tty", monitor.create(created)],
    ["exec", monitor.execLive(exec, WANTS, "x.sock")],
    ["attach", monitor.attach("c1", WANTS)],
    ["port-forward", monitor.dial(80, 1000)],
  ] as const) {
    expect(await failure(attempt)).toStartWith(`Unimplemented: ${what}: ${why}`);
  }
  // A second one would have replaced the first.
  expect(connections()).toBe(1);
  monitor.disconnect();
  server.close();
});

test("a monitor that cannot tell how a port has ended is believed that it did in good order", async () => {
  const directory = pod.path("silent");
  mkdirSync(directory);
  const streams: Socket[] = [];
  const unknown = new FrameWriter().u32("code", 7).string("text", "unknown request 21");
  const answers: Record<number, (request: number) => Uint8Array> = {
    [Request.hello]: (request) =>
      new FrameWriter()
        .u16(2)
        .u16(0)
        .u32("pid", 5)
        .u32("pause", 0)
        .string("pod", "silent")
        .frame(Answer.reply | Request.hello, request),
    [Request.dial]: (request) => new FrameWriter().frame(Answer.reply | Request.dial, request),
    [Request.dialEnd]: (request) => {
      for (const stream of streams) stream.end("said all");
      return unknown.frame(Answer.error, request);
    },
  };
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    const parser = new FrameParser(({ type, request }) => {
      if (type === Request.stream) streams.push(socket);
      else socket.write(answers[type]?.(request) ?? "");
    });
    socket.on("data", (chunk: Buffer) => parser.push(chunk)).on("error", () => undefined);
  });
  await new Promise<void>((resolve) => server.listen(`${directory}/monitor.sock`, resolve));
  const monitor = await Monitor.connect(directory, DEADLINE_MS);
  const socket = await monitor.dial(80, 1000);
  expect(await read(socket)).toBe("said all");
  socket.destroy();
  monitor.disconnect();
  server.close();
});

test("a monitor that is newer than the daemon is spoken to", async () => {
  const { monitor, server } = await fakeMonitor("new", 99);
  expect(monitor.podId).toBe("new");
  monitor.requireStreams("exec");
  monitor.disconnect();
  server.close();
});
