/** Clients that do not read, when their connection has to end. */
import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import { Duplex } from "node:stream";
import { SpdySession } from "../../src/streaming/spdy-session.ts";
import type { SpdyStream } from "../../src/streaming/spdy-stream.ts";
import { WebSocketConnection } from "../../src/streaming/websocket.ts";
import { tunnel } from "../../src/streaming/websocket-port-forward.ts";
import { controlFrame, HeaderWriter, synStream, u32 } from "../fixtures/spdy-client.ts";
import { clientFrame } from "../fixtures/websocket.ts";

const IDLE_MS = 3_600_000;
const LINGER_MS = 30_000;

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

/** A connection whose client sends what it is told to, and reads nothing. */
function unread(): Duplex {
  return new Duplex({ read() {}, write() {}, readableHighWaterMark: 1, writableHighWaterMark: 1 });
}

const turn = () => new Promise<void>((resolve) => process.nextTick(resolve));

/** Lets time pass while the client sends something in each second: a pong, which in SPDY is nothing. */
async function wait(transport: Duplex, ms: number): Promise<void> {
  for (let left = ms; left > 0 && !transport.destroyed; left -= 1_000) {
    jest.advanceTimersByTime(1_000);
    transport.push(clientFrame({ opcode: "pong", payload: "" }));
    await turn();
  }
}

/** It is still there shortly before its time, and gone after it. */
async function expectEnd(transport: Duplex, ms: number): Promise<void> {
  await wait(transport, ms - 1_000);
  expect(transport.destroyed).toBe(false);
  await wait(transport, 2_000);
  expect(transport.destroyed).toBe(true);
}

describe("SPDY", () => {
  async function blocked(transport: Duplex): Promise<SpdySession> {
    const streams: SpdyStream[] = [];
    const session = new SpdySession(transport, {
      idleTimeoutMs: IDLE_MS,
      maxStreams: 1,
      refuse: () => undefined,
      opened: (stream) => streams.push(stream),
    });
    session.start(Buffer.alloc(0));
    transport.push(synStream(1, new HeaderWriter().write({ streamtype: "data" })));
    await turn();
    streams[0]?.write("x".repeat(1e6));
    await turn();
    return session;
  }

  test("one that sent what is no SPDY is cut off, whatever it goes on to send", async () => {
    const transport = unread();
    await blocked(transport);
    transport.push(Buffer.from("ffffffffffffffff", "hex"));
    await turn();
    await expectEnd(transport, LINGER_MS);
  });

  test("one that has said farewell is cut off", async () => {
    const transport = unread();
    await blocked(transport);
    transport.push(controlFrame(7, 0, u32(1), u32(0)));
    await turn();
    await expectEnd(transport, LINGER_MS);
  });

  test("one that is idle is cut off at once", async () => {
    const transport = unread();
    await blocked(transport);
    jest.advanceTimersByTime(IDLE_MS - 1_000);
    expect(transport.destroyed).toBe(false);
    jest.advanceTimersByTime(2_000);
    expect(transport.destroyed).toBe(true);
  });
});

describe("WebSocket", () => {
  async function blocked(transport: Duplex): Promise<WebSocketConnection> {
    const connection = new WebSocketConnection(transport, IDLE_MS);
    connection.start(Buffer.alloc(0), { message: () => {}, farewell: () => {} });
    connection.send("binary", Buffer.alloc(0), Buffer.alloc(1e6));
    await turn();
    return connection;
  }

  test("one that sent what is no frame is cut off, whatever it goes on to send", async () => {
    const transport = unread();
    await blocked(transport);
    transport.push(Buffer.from("ffff", "hex"));
    await turn();
    await expectEnd(transport, LINGER_MS);
  });

  test("one that has said farewell is cut off", async () => {
    const transport = unread();
    await blocked(transport);
    transport.push(clientFrame({ opcode: "close", payload: "\x03\xe8" }));
    await turn();
    await expectEnd(transport, LINGER_MS);
  });

  test("one whose end was said keeps nothing alive by what it sends", async () => {
    const transport = unread();
    const connection = await blocked(transport);
    connection.close(1000);
    await expectEnd(transport, IDLE_MS);
  });

  test("a tunnel that has ended is cut off", async () => {
    const transport = unread();
    const connection = new WebSocketConnection(transport, IDLE_MS);
    const stream = tunnel(connection, Buffer.alloc(0));
    stream.write("x".repeat(1e6));
    await turn();
    stream.destroy();
    await turn();
    await expectEnd(transport, LINGER_MS);
  });
});
