import { expect, setDefaultTimeout, test } from "bun:test";
import { once } from "node:events";
import { SpdyCommand } from "../../src/streaming/spdy-command.ts";
import { controlFrame, dataFrame, SpdyClient, synStream, u32 } from "../fixtures/spdy-client.ts";
import { startStreaming, type TestServer } from "../fixtures/streaming.ts";

setDefaultTimeout(30_000);

const V4 = ["v4.channel.k8s.io"];
const SUCCESS = '{"metadata":{},"status":"Success"}';
const EOF = (streamId: number) => ({ data: "", streamId, fin: true });

/** A client that has opened these streams, error first; their ids by name. */
async function openStreams<Name extends string>(url: string, names: Name[], protocols = V4) {
  const client = await SpdyClient.open(url, protocols);
  const ids = { error: await client.stream({ streamtype: "error" }) } as Record<
    Name | "error",
    number
  >;
  for (const name of names) ids[name] = await client.stream({ streamtype: name });
  return { client, ids };
}

/** The whole of an exec that ends this way. */
async function execEnding(it: TestServer, protocol: string, exitCode: number) {
  const started = it.backend.processes.length;
  const { client, ids } = await openStreams(
    it.url("exec", { stdout: true }),
    ["stdout"],
    [protocol],
  );
  const process = await it.backend.process(started);
  process.exit(exitCode);
  await client.until("the end", () => client.ended);
  client.socket.end();
  return client.text(ids.error);
}

test("an exec's output, then its status, then the end of each stream, then GOAWAY", async () => {
  await using it = await startStreaming();
  const { client, ids } = await openStreams(
    it.url("exec", { command: ["echo", "hi"], stdin: true, stdout: true, stderr: true }),
    ["stdin", "stdout", "stderr"],
  );
  const process = await it.backend.process();
  expect(process.request).toMatchObject({ containerId: "c1", command: ["echo", "hi"] });
  process.stdout.write("hello ");
  process.stdout.write("world");
  process.stderr.write("oops");
  process.exit(0);
  await client.until("the server's end", () => client.ended);
  expect(client.text(ids.stdout)).toBe("hello world");
  expect(client.text(ids.stderr)).toBe("oops");
  const end = client.frames.slice(
    client.frames.findIndex((it) => "data" in it && it.data === SUCCESS),
  );
  expect(end.slice(0, 4)).toEqual([
    { data: SUCCESS, streamId: ids.error, fin: false },
    EOF(ids.stdout),
    EOF(ids.stderr),
    EOF(ids.error),
  ]);
  expect(end.slice(4)).toEqual([
    { type: 3, streamId: ids.stdin, status: 5 },
    { type: 7, streamId: ids.stderr, status: 0 },
  ]);
  expect(client.closed).toBe(false);
  client.socket.end();
  await client.until("the connection's end", () => client.closed);
  expect(process.closed).toBe(true);
  while (it.server.sessions().length > 0) await Bun.sleep(1);
});

test("exit codes: JSON in version 4, text before, nothing when all went well", async () => {
  await using it = await startStreaming();
  expect(await execEnding(it, "v4.channel.k8s.io", 0)).toBe(SUCCESS);
  expect(JSON.parse(await execEnding(it, "v4.channel.k8s.io", 3))).toEqual({
    metadata: {},
    status: "Failure",
    reason: "NonZeroExitCode",
    message: "command terminated with non-zero exit code: 3",
    details: { causes: [{ reason: "ExitCode", message: "3" }] },
  });
  for (const protocol of ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"]) {
    expect(await execEnding(it, protocol, 0)).toBe("");
    expect(await execEnding(it, protocol, 3)).toBe("command terminated with non-zero exit code: 3");
  }
});

test("an attached container's exit code is not the client's", async () => {
  await using it = await startStreaming();
  const { client, ids } = await openStreams(it.url("attach", { stdout: true }), ["stdout"]);
  (await it.backend.process()).exit(3);
  await client.until("the end", () => client.ended);
  expect(client.text(ids.error)).toBe(SUCCESS);
  client.socket.end();
});

test("a command that cannot be run is an internal error that says why", async () => {
  await using it = await startStreaming();
  const { client, ids } = await openStreams(it.url("exec", { stdout: true }), ["stdout"]);
  (await it.backend.process()).fail("no such file: /nope");
  await client.until("the end", () => client.ended);
  expect(JSON.parse(client.text(ids.error))).toEqual({
    status: "Failure",
    reason: "InternalError",
    message: "Internal error occurred: no such file: /nope",
    code: 500,
  });
  client.socket.end();
});

test("the process starts when all streams are there, in any order", async () => {
  await using it = await startStreaming();
  const url = it.url("exec", { stdin: true, stdout: true });
  const client = await SpdyClient.open(url, V4);
  await client.stream({ streamtype: "stdout" });
  await client.stream({ streamtype: "stdin" });
  expect(it.backend.processes).toHaveLength(0);
  await client.stream({ streamtype: "error" });
  (await it.backend.process()).exit(0);
  await client.until("the end", () => client.ended);
  client.socket.end();
});

test("input reaches the process, and its end", async () => {
  await using it = await startStreaming();
  const { client, ids } = await openStreams(it.url("exec", { stdin: true }), ["stdin"]);
  client.send(
    dataFrame(ids.stdin, "one "),
    dataFrame(ids.stdin, "two"),
    dataFrame(ids.stdin, "", true),
  );
  const process = await it.backend.process();
  expect(await new Response(process.stdin).text()).toBe("one two");
  process.exit(0);
  await client.until("the end", () => client.ended);
  client.socket.end();
});

test("input that came before the process existed is kept", async () => {
  await using it = await startStreaming();
  const gate = Promise.withResolvers<void>();
  it.backend.gate = gate.promise;
  const { client, ids } = await openStreams(it.url("exec", { stdin: true }), ["stdin"]);
  client.send(dataFrame(ids.stdin, "early", true));
  gate.resolve();
  const process = await it.backend.process();
  expect(await new Response(process.stdin).text()).toBe("early");
  client.socket.destroy();
});

test("the last of a terminal's sizes is told, also when they came before the process", async () => {
  await using it = await startStreaming();
  const gate = Promise.withResolvers<void>();
  it.backend.gate = gate.promise;
  const url = it.url("exec", { tty: true, stdin: true, stdout: true });
  const { client, ids } = await openStreams(url, ["stdin", "stdout", "resize"]);
  client.send(dataFrame(ids.resize, '{"Width":80,"Height":24}{"Width":1'));
  client.send(dataFrame(ids.resize, '11,"Height":33}\n'));
  gate.resolve();
  const process = await it.backend.process();
  while (process.sizes.length === 0) await Bun.sleep(1);
  expect(process.sizes.at(-1)).toEqual({ columns: 111, rows: 33 });
  client.send(
    dataFrame(ids.resize, '{"Width":0,"Height":0}{"Width":5,"Height":6}'),
    dataFrame(ids.resize, "junk}"),
  );
  client.send(dataFrame(ids.resize, '{"Width":7,"Height":8}'));
  process.stdout.write("x");
  await client.until("output", () => client.text(ids.stdout) === "x");
  expect(process.sizes.at(-1)).toEqual({ columns: 5, rows: 6 });
  process.exit(0);
  await client.until("the end", () => client.ended);
  client.socket.end();
});

test("before version 3 a terminal has no stream for its size", async () => {
  await using it = await startStreaming();
  const url = it.url("exec", { tty: true, stdout: true });
  const { client } = await openStreams(url, ["stdout"], ["v2.channel.k8s.io"]);
  (await it.backend.process()).exit(0);
  await client.until("the end", () => client.ended);
  client.socket.end();
});

test("streams of unknown types and second ones are refused; the connection goes on", async () => {
  await using it = await startStreaming();
  const client = await SpdyClient.open(it.url("exec", { stdout: true }), V4);
  const unknown = await client.stream({ streamtype: "side channel" });
  const error = await client.stream({ streamtype: "error" });
  const second = await client.stream({ streamtype: "error" });
  const none = await client.stream({});
  await client.stream({ streamtype: "stdout" });
  expect([unknown, second, none].map((id) => client.isReset(id))).toEqual([true, true, true]);
  (await it.backend.process()).exit(0);
  await client.until("the end", () => client.ended);
  expect(client.text(error)).toBe(SUCCESS);
  client.socket.end();
});

test("PING is answered, SETTINGS and WINDOW_UPDATE are passed over", async () => {
  await using it = await startStreaming();
  const { client } = await openStreams(it.url("exec", { stdout: true }), ["stdout"]);
  client.send(controlFrame(4, 0, u32(0)), controlFrame(9, 0, u32(1), u32(1)));
  client.send(controlFrame(6, 0, u32(2)), controlFrame(6, 0, u32(77)));
  await client.until("PING", () => client.frames.some((it) => "type" in it && it.type === 6));
  const pings = client.frames.filter((it) => "type" in it && it.type === 6);
  expect(pings).toEqual([{ type: 6, streamId: 77, status: 0 }]);
  client.socket.destroy();
});

test("a client that vanishes ends the session, and its process is given up", async () => {
  await using it = await startStreaming();
  for (const leave of ["destroy", "resetAndDestroy", "end"] as const) {
    const count = it.backend.processes.length;
    const { client } = await openStreams(it.url("exec", { stdin: true }), ["stdin"]);
    const process = await it.backend.process(count);
    client.socket[leave]();
    await process.whenClosed;
  }
  const { client } = await openStreams(it.url("exec", { stdin: true }), ["stdin"]);
  const process = await it.backend.process(3);
  client.send(controlFrame(7, 0, u32(0), u32(0)));
  await process.whenClosed;
  await client.until("the server's end", () => client.ended);
  client.socket.destroy();
});

test("a client that vanishes before its process exists: the process is given up at once", async () => {
  await using it = await startStreaming();
  const gate = Promise.withResolvers<void>();
  it.backend.gate = gate.promise;
  const { client } = await openStreams(it.url("exec", { stdin: true }), ["stdin"]);
  client.socket.destroy();
  while (it.server.sessions().length > 0) await Bun.sleep(1);
  gate.resolve();
  await (await it.backend.process()).whenClosed;
});

test("output that the client resets is dropped, and the process goes on", async () => {
  await using it = await startStreaming();
  const url = it.url("exec", { stdout: true, stderr: true });
  const { client, ids } = await openStreams(url, ["stdout", "stderr"]);
  const process = await it.backend.process();
  client.send(controlFrame(3, 0, u32(ids.stdout), u32(5)));
  for (let count = 0; count < 100; count += 1) {
    if (!process.stdout.write(Buffer.alloc(65_536))) await once(process.stdout, "drain");
  }
  process.stderr.write("still here");
  process.exit(4);
  await client.until("the end", () => client.ended);
  expect(client.text(ids.stderr)).toBe("still here");
  expect(client.text(ids.error)).toContain('"message":"4"');
  client.socket.end();
});

test("input that the process does not take any more is dropped, and output goes on", async () => {
  await using it = await startStreaming();
  const url = it.url("exec", { stdin: true, stdout: true });
  const { client, ids } = await openStreams(url, ["stdin", "stdout"]);
  const process = await it.backend.process();
  process.stdin.destroy();
  for (let count = 0; count < 200; count += 1) {
    if (!client.socket.write(dataFrame(ids.stdin, Buffer.alloc(65_536)))) {
      await once(client.socket, "drain");
    }
  }
  client.send(controlFrame(6, 0, u32(1)));
  await client.until("PING", () => client.frames.some((it) => "type" in it && it.type === 6));
  process.stdout.write("fine");
  process.exit(0);
  await client.until("the end", () => client.ended);
  expect(client.text(ids.stdout)).toBe("fine");
  client.socket.end();
});

test("a client that does not read holds up its process after a few buffers", async () => {
  await using it = await startStreaming();
  const { client } = await openStreams(it.url("exec", { stdout: true }), ["stdout"]);
  client.socket.pause();
  const process = await it.backend.process();
  const chunk = Buffer.alloc(65_536);
  let written = 0;
  for (let stalled = 0; stalled < 20; ) {
    if (process.stdout.writableNeedDrain) {
      await Bun.sleep(10);
      stalled += 1;
    } else {
      process.stdout.write(chunk);
      written += chunk.length;
      stalled = 0;
    }
    if (written > 256e6) break;
  }
  // The kernel's two socket buffers hold some MB.
  expect(written).toBeLessThan(64e6);
  client.socket.resume();
  process.exit(0);
  await client.until("the end", () => client.ended);
  client.socket.end();
});

test("a process that does not read holds up its client; its output and end still come", async () => {
  await using it = await startStreaming();
  const url = it.url("exec", { stdin: true, stdout: true });
  const { client, ids } = await openStreams(url, ["stdin", "stdout"]);
  const process = await it.backend.process();
  const frame = dataFrame(ids.stdin, Buffer.alloc(65_536));
  const sent = await client.sendUntilStalled(frame);
  expect(sent).toBeLessThan(64e6);
  process.stdout.write("output");
  await client.until("output", () => client.text(ids.stdout) === "output");
  process.exit(0);
  await client.until("the end", () => client.ended);
  expect(client.text(ids.error)).toBe(SUCCESS);
  client.socket.destroy();
});

test("a process that reads slowly gets all of its input in order", async () => {
  await using it = await startStreaming();
  const { client, ids } = await openStreams(it.url("exec", { stdin: true }), ["stdin"]);
  const process = await it.backend.process();
  const total = 8 * 1024 * 1024;
  const input = Buffer.alloc(total);
  for (let at = 0; at < total; at += 4) input.writeUInt32LE(at, at);
  for (let at = 0; at < total; at += 50_000) {
    client.send(dataFrame(ids.stdin, input.subarray(at, at + 50_000)));
  }
  client.send(dataFrame(ids.stdin, "", true));
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) {
    chunks.push(chunk);
    if (chunks.length % 200 === 0) await Bun.sleep(1);
  }
  expect(Buffer.concat(chunks).equals(input)).toBe(true);
  process.exit(0);
  await client.until("the end", () => client.ended);
  client.socket.end();
});

test("a client that does not open its streams in time is told so", async () => {
  await using it = await startStreaming({ creationTimeoutMs: 1_000 });
  const { client, ids } = await openStreams(it.url("exec", { stdin: true, stdout: true }), [
    "stdin",
  ]);
  await client.until("the end", () => client.ended);
  expect(client.text(ids.error)).toContain("the client did not open stdout in time");
  expect(it.backend.processes).toHaveLength(0);
  client.socket.end();
});

test("streams that come when it is too late are refused", () => {
  const command = new SpdyCommand(
    { tty: false, stdin: true, stdout: true, stderr: false },
    "v4.channel.k8s.io",
  );
  const stdout = { streamtype: "stdout", port: "", requestid: "" };
  expect(command.refuse(stdout)).toBeUndefined();
  expect(command.tooLate()).toEqual(["error", "stdin", "stdout"]);
  expect(command.refuse(stdout)).toBe("too late");
});

test("an idle connection is closed; frames in either direction keep it", async () => {
  const idleTimeoutMs = 1_000;
  await using it = await startStreaming({ idleTimeoutMs });
  const { client } = await openStreams(it.url("exec", { stdout: true }), ["stdout"]);
  const process = await it.backend.process();
  let longestMs = 0;
  for (let count = 0; count < 15; count += 1) {
    const start = performance.now();
    await Bun.sleep(100);
    process.stdout.write(".");
    longestMs = Math.max(longestMs, performance.now() - start);
  }
  // On a machine that stood still for so long, it was idle.
  if (longestMs < idleTimeoutMs / 2) expect(client.ended).toBe(false);
  await client.until("the end", () => client.ended);
  client.socket.end();
  await process.whenClosed;
});

test("what is not SPDY ends the connection with GOAWAY, and the process is given up", async () => {
  const cases: Array<[string, (client: SpdyClient) => Buffer]> = [
    ["another version", () => Buffer.concat([u32(0x80020001), u32(0)])],
    ["data for a stream that was never opened", () => dataFrame(99, "x")],
    [
      "a stream id that does not rise",
      (it) => synStream(1, it.writer.write({ streamtype: "stdin" })),
    ],
    ["a server's stream id", (it) => synStream(8, it.writer.write({ streamtype: "stdin" }))],
    ["a header block that is none", () => synStream(99, Buffer.alloc(30))],
    ["a header bomb", (it) => synStream(99, it.writer.write({ a: "x".repeat(1e6) }))],
    ["a huge control frame", () => Buffer.concat([u32(0x80030001), u32(0xffffff)])],
  ];
  await using it = await startStreaming();
  for (const [index, [what, bytes]] of cases.entries()) {
    const { client } = await openStreams(it.url("exec", { stdout: true }), ["stdout"]);
    const process = await it.backend.process(index);
    client.send(bytes(client));
    await client.until(`the end after ${what}`, () => client.ended);
    expect(client.frames.at(-1)).toMatchObject({ type: 7, status: 1 });
    await process.whenClosed;
    client.socket.end();
    await client.until("the connection's end", () => client.closed);
  }
  while (it.server.sessions().length > 0) await Bun.sleep(1);
});

test("frames for streams that are closed or refused are passed over", async () => {
  await using it = await startStreaming();
  const { client, ids } = await openStreams(it.url("exec", { stdin: true, stdout: true }), [
    "stdin",
    "stdout",
  ]);
  const refused = await client.stream({ streamtype: "nothing" });
  client.send(
    dataFrame(ids.stdin, "a", true),
    dataFrame(ids.stdin, "b"),
    dataFrame(refused, "c", true),
  );
  client.send(controlFrame(3, 0, u32(refused), u32(5)), controlFrame(3, 0, u32(999), u32(5)));
  const process = await it.backend.process();
  expect(await new Response(process.stdin).text()).toBe("a");
  process.exit(0);
  await client.until("the end", () => client.ended);
  client.socket.end();
});

test("a client that floods PINGs and reads nothing is not read for ever", async () => {
  await using it = await startStreaming();
  const { client } = await openStreams(it.url("exec", { stdout: true }), ["stdout"]);
  client.socket.pause();
  const pings = Buffer.concat(Array.from({ length: 5_000 }, () => controlFrame(6, 0, u32(1))));
  const sent = await client.sendUntilStalled(pings);
  expect(sent).toBeLessThan(64e6);
  client.socket.destroy();
});

test("a flood of tiny frames that nobody reads is held up as well", async () => {
  await using it = await startStreaming();
  const { client, ids } = await openStreams(it.url("exec", { stdin: true }), ["stdin"]);
  await it.backend.process();
  const before = process.memoryUsage.rss();
  const tiny = Buffer.concat(Array.from({ length: 5_000 }, () => dataFrame(ids.stdin, "x")));
  const sent = await client.sendUntilStalled(tiny);
  expect(sent).toBeLessThan(64e6);
  expect(process.memoryUsage.rss() - before).toBeLessThan(100e6);
  client.socket.destroy();
});
