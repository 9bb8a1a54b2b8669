import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { once } from "node:events";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { MAX_CONNECTIONS } from "../../src/streaming/forward.ts";
import { SpdyPortForward } from "../../src/streaming/spdy-port-forward.ts";
import { SpdyStream } from "../../src/streaming/spdy-stream.ts";
import { controlFrame, dataFrame, SpdyClient, synStream, u32 } from "../fixtures/spdy-client.ts";
import { startStreaming, type TestServer } from "../fixtures/streaming.ts";

setDefaultTimeout(30_000);

const PROTOCOLS = ["portforward.k8s.io"];
const targets: Server[] = [];

afterEach(() => {
  for (const target of targets.splice(0)) target.close();
});

/** A port of this machine. */
async function target(serve: (socket: Socket) => void): Promise<string> {
  const server = createServer({ allowHalfOpen: true }, serve);
  targets.push(server);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return String((server.address() as AddressInfo).port);
}

const echo = () => target((socket) => void socket.pipe(socket));

const open = (it: TestServer) => SpdyClient.open(it.forwardUrl(), PROTOCOLS);

/** One forwarded connection; like Go's client it closes its side of the error stream at once. */
async function forward(client: SpdyClient, port: string, requestid?: string) {
  const common = { port, ...(requestid !== undefined && { requestid }) };
  const error = await client.stream({ streamtype: "error", ...common });
  client.send(dataFrame(error, "", true));
  return { error, data: await client.stream({ streamtype: "data", ...common }) };
}

test("data go both ways, and both streams end when the target has ended", async () => {
  await using it = await startStreaming();
  const client = await open(it);
  const { error, data } = await forward(client, await echo(), "7");
  client.send(dataFrame(data, "hello "), dataFrame(data, "world"));
  await client.until("the echo", () => client.text(data) === "hello world");
  expect(client.isFinished(data)).toBe(false);
  client.send(dataFrame(data, "", true));
  await client.until("the end", () => client.isFinished(data) && client.isFinished(error));
  expect(client.text(error)).toBe("");
  client.socket.end();
});

test("a target that ends first: both streams end while the client may still send", async () => {
  await using it = await startStreaming();
  const client = await open(it);
  const received = Promise.withResolvers<string>();
  const port = await target((socket) => {
    socket.end("bye");
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk.toString();
    });
    socket.on("end", () => received.resolve(text));
  });
  const { error, data } = await forward(client, port, "1");
  await client.until("the end", () => client.isFinished(data) && client.isFinished(error));
  client.send(dataFrame(data, "late", true));
  expect(await received.promise).toBe("late");
  client.socket.end();
});

test("a port nobody listens on: the error says so, its data stream is reset, others go on", async () => {
  await using it = await startStreaming();
  const client = await open(it);
  const good = await forward(client, await echo(), "1");
  const port = await closedPort();
  const bad = await forward(client, port, "2");
  await client.until("the refusal", () => client.isFinished(bad.error) && client.isReset(bad.data));
  expect(client.text(bad.error)).toContain(`cannot forward port ${port} of pod p1: `);
  client.send(dataFrame(good.data, "still here"));
  await client.until("the echo", () => client.text(good.data) === "still here");
  client.socket.end();
});

test("a connection that the target resets is reset, without a text, and the others go on", async () => {
  await using it = await startStreaming();
  const client = await open(it);
  const good = await forward(client, await echo(), "1");
  const resetting = await target((socket) => {
    socket.once("data", () => socket.resetAndDestroy());
  });
  const bad = await forward(client, resetting, "2");
  client.send(dataFrame(bad.data, "x"));
  await client.until("the reset", () => client.isReset(bad.data) && client.isFinished(bad.error));
  expect(client.text(bad.error)).toBe("");
  client.send(dataFrame(good.data, "still here"));
  await client.until("the echo", () => client.text(good.data) === "still here");
  client.socket.end();
});

test("what a target said before its reset comes first, to a client that reads late too", async () => {
  await using it = await startStreaming();
  const client = await open(it);
  const flood = await target((socket) => {
    socket.on("error", () => {}).write(Buffer.alloc(32_000_000));
  });
  const words = Buffer.alloc(10_000, "last words ");
  const resetting = await target((socket) => {
    socket.write(words);
    socket.once("data", () => socket.resetAndDestroy());
  });
  client.socket.pause();
  const requests = [flood, resetting].map((port, index) => {
    const headers = (streamtype: string) =>
      client.writer.write({ streamtype, port, requestid: String(index) });
    const id = 4 * index + 1;
    return [synStream(id, headers("error")), synStream(id + 2, headers("data"))];
  });
  client.send(...requests.flat(), dataFrame(7, "x"));
  await Bun.sleep(300);
  client.socket.resume();
  await client.until("the reset", () => client.isReset(7));
  expect(client.text(7) === words.toString()).toBe(true);
  client.socket.end();
});

test("a connection that the client resets is closed, and the others go on", async () => {
  await using it = await startStreaming();
  const client = await open(it);
  const gone = Promise.withResolvers<void>();
  const waiting = await target((socket) => {
    socket.on("error", () => {});
    socket.on("close", () => gone.resolve());
    socket.on("end", () => socket.end());
    socket.resume();
  });
  const bad = await forward(client, waiting, "1");
  const good = await forward(client, await echo(), "2");
  client.send(controlFrame(3, 0, u32(bad.data), u32(5)));
  await gone.promise;
  client.send(dataFrame(good.data, "still here"));
  await client.until("the echo", () => client.text(good.data) === "still here");
  client.socket.end();
});

test("when the client goes, its connections are closed", async () => {
  await using it = await startStreaming();
  const client = await open(it);
  const gone = Promise.withResolvers<void>();
  const port = await target((socket) => {
    socket.on("error", () => {});
    socket.on("end", () => socket.end());
    socket.on("close", () => gone.resolve());
    socket.resume();
  });
  await forward(client, port, "1");
  client.socket.destroy();
  await gone.promise;
  while (it.server.sessions().length > 0) await Bun.sleep(1);
});

test("old clients send no request id: the error stream, then the data stream", async () => {
  await using it = await startStreaming();
  const client = await open(it);
  const port = await echo();
  const [one, two] = [await forward(client, port), await forward(client, port)];
  client.send(dataFrame(two.data, "two"), dataFrame(one.data, "one"));
  await client.until(
    "the echoes",
    () => client.text(one.data) + client.text(two.data) === "onetwo",
  );
  client.socket.end();
});

test("streams without a valid port or type, and second ones, are refused", async () => {
  await using it = await startStreaming();
  const client = await open(it);
  const port = await echo();
  const invalid: Record<string, string>[] = [
    { streamtype: "data" },
    { streamtype: "data", port: "" },
    { streamtype: "data", port: "0" },
    { streamtype: "data", port: "65536" },
    { streamtype: "data", port: "80x" },
    { streamtype: "data", port: "-1" },
    { streamtype: "stdin", port },
    { port },
  ];
  for (const headers of invalid) {
    expect(client.isReset(await client.stream(headers))).toBe(true);
  }
  await client.stream({ streamtype: "error", port, requestid: "1" });
  const second = await client.stream({ streamtype: "error", port, requestid: "1" });
  expect(client.isReset(second)).toBe(true);
  const data = await client.stream({ streamtype: "data", port, requestid: "1" });
  client.send(dataFrame(data, "fine"));
  await client.until("the echo", () => client.text(data) === "fine");
  client.socket.end();
});

test("where the request named ports, others are refused", () => {
  const forward = new SpdyPortForward(60_000, () => {}, [80]);
  const headers = { streamtype: "error", port: "80", requestid: "1" };
  expect(forward.refuse(headers)).toBeUndefined();
  expect(forward.refuse({ ...headers, port: "81" })).toBe('port "81"');
});

test("a connection whose second stream never comes is ended", async () => {
  await using it = await startStreaming({ creationTimeoutMs: 50 });
  const client = await open(it);
  const error = await client.stream({ streamtype: "error", port: "80", requestid: "1" });
  const data = await client.stream({ streamtype: "data", port: "80", requestid: "2" });
  await client.until("the end", () => client.isFinished(error) && client.isReset(data));
  expect(client.text(error)).toContain("timed out");
  client.socket.end();
});

test("hundreds of connections at once, some of them broken, each with its own data", async () => {
  await using it = await startStreaming();
  const client = await open(it);
  const port = await echo();
  const breaking = await target((socket) => {
    socket.once("data", () => socket.resetAndDestroy());
  });
  const payload = (index: number) => `${index}:${"x".repeat(20_000)}:${index}`;
  const connections = await Promise.all(
    Array.from({ length: 300 }, (_, index) =>
      forward(client, index % 10 === 0 ? breaking : port, String(index)),
    ),
  );
  for (const [index, { data }] of connections.entries()) {
    client.send(dataFrame(data, payload(index)), dataFrame(data, "", true));
  }
  await client.until("all ends", () =>
    connections.every(({ error, data }, index) =>
      index % 10 === 0 ? client.isReset(data) : client.isFinished(data) && client.isFinished(error),
    ),
  );
  for (const [index, { data }] of connections.entries()) {
    if (index % 10 !== 0) expect(client.text(data) === payload(index)).toBe(true);
  }
  client.socket.end();
});

test("a connection whose target does not read holds up little, and the client goes on when it reads", async () => {
  await using it = await startStreaming();
  const client = await open(it);
  let held: Socket | undefined;
  const port = await target((socket) => {
    held = socket.pause();
  });
  const { data } = await forward(client, port, "1");
  const frame = dataFrame(data, Buffer.alloc(65_536));
  const sent = await client.sendUntilStalled(frame);
  expect(sent).toBeLessThan(64e6);
  client.send(dataFrame(data, "", true));
  let received = 0;
  held?.on("data", (chunk) => {
    received += chunk.length;
  });
  held?.resume();
  await once(held ?? client.socket, "end");
  expect(received).toBe((sent / frame.length) * 65_536);
  client.socket.end();
});

/** A port of this machine that nobody listens on. */
async function closedPort(): Promise<string> {
  const closed = createServer().listen(0, "127.0.0.1");
  await once(closed, "listening");
  const port = String((closed.address() as AddressInfo).port);
  closed.close();
  await once(closed, "close");
  return port;
}

test("a data stream that is reset before the dial fails, its error stream open: all others go on", async () => {
  await using it = await startStreaming();
  const client = await open(it);
  const good = await forward(client, await echo(), "1");
  client.send(dataFrame(good.data, "a"));
  await client.until("the echo", () => client.text(good.data) === "a");
  const gate = Promise.withResolvers<void>();
  it.backend.gate = gate.promise;
  const headers = { port: await closedPort(), requestid: "2" };
  const error = await client.stream({ streamtype: "error", ...headers });
  const data = await client.stream({ streamtype: "data", ...headers });
  client.send(controlFrame(3, 0, u32(data), u32(5)));
  await client.until("the end of the error stream", () => client.isFinished(error));
  gate.resolve();
  client.send(dataFrame(good.data, "b"));
  await client.until("another echo", () => client.text(good.data) === "ab");
  expect(client.text(error)).toBe("");
  client.socket.end();
});

test("more connections than one client may have are refused with a text, also while dials go on", async () => {
  await using it = await startStreaming();
  const client = await open(it);
  const gate = Promise.withResolvers<void>();
  it.backend.gate = gate.promise;
  const port = await echo();
  const common = (index: number) => ({ port, requestid: String(index) });
  for (let index = 0; index < MAX_CONNECTIONS; index += 1) {
    const error = await client.stream({ streamtype: "error", ...common(index) });
    const data = await client.stream({ streamtype: "data", ...common(index) });
    // Nobody wants it any more, but it is still being made.
    for (const id of [error, data]) client.send(controlFrame(3, 0, u32(id), u32(5)));
  }
  const more = await forward(client, port, "more");
  await client.until("the refusal", () => client.isFinished(more.error));
  expect(client.text(more.error)).toContain(`this client has ${MAX_CONNECTIONS} connections`);
  gate.resolve();
  for (let round = 0, text = "none"; text !== ""; round += 1) {
    const again = await forward(client, port, `again ${round}`);
    client.send(dataFrame(again.data, "", true));
    await client.until("an end", () => client.isFinished(again.error));
    text = client.text(again.error);
  }
  client.socket.end();
});

describe("connections whose second stream is missing", () => {
  const link = { send: () => {}, sendFin: () => {}, ended: () => {}, queued: () => {} };
  const headersOf = (index: number) => ({
    streamtype: "error",
    port: "80",
    requestid: String(index),
  });

  test("go when the first one has gone", async () => {
    const forward = new SpdyPortForward(60_000, () => {});
    const streams = Array.from({ length: 100 }, (_, index) => {
      const stream = new SpdyStream(link, 2 * index + 1, headersOf(index));
      forward.opened(stream);
      return stream;
    });
    expect(forward.pending).toBe(100);
    for (const stream of streams) stream.vanish();
    await Promise.all(streams.map((stream) => stream.closed || once(stream, "close")));
    expect(forward.pending).toBe(0);
  });

  test("are at most as many as there may be connections", () => {
    const forward = new SpdyPortForward(60_000, () => {});
    for (let index = 0; index < MAX_CONNECTIONS; index += 1) {
      expect(forward.refuse(headersOf(index))).toBeUndefined();
      forward.opened(new SpdyStream(link, 2 * index + 1, headersOf(index)));
    }
    expect(forward.refuse(headersOf(MAX_CONNECTIONS))).toContain("wait for their second stream");
    expect(forward.refuse({ ...headersOf(0), streamtype: "data" })).toBeUndefined();
    forward.close();
    expect(forward.pending).toBe(0);
  });
});
