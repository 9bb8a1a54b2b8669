/** What a client's connection holds at most. */
import { expect, test } from "bun:test";
import { Duplex, Readable } from "node:stream";
import { Backlog } from "../../src/streaming/backlog.ts";
import { ClientStream } from "../../src/streaming/client-stream.ts";
import { SpdySession } from "../../src/streaming/spdy-session.ts";
import type { SpdyStream } from "../../src/streaming/spdy-stream.ts";
import { dataFrame, HeaderWriter, synStream } from "../fixtures/spdy-client.ts";

const KB = 1024;
const MB = 1024 * KB;

/** Streams whose queue is what the test says. */
function streamsOf(count: number) {
  let changes = 0;
  const backlog = new Backlog(() => {
    changes += 1;
  });
  const link = {
    send: () => {},
    sendFin: () => {},
    ended: () => {},
    queued: (stream: ClientStream, changeBytes: number) => backlog.queued(stream, changeBytes),
  };
  const streams = Array.from({ length: count }, (_, index) => new ClientStream(link, index));
  return { backlog, streams, changes: () => changes };
}

const bytes = (length: number) => Buffer.alloc(length);

test("one stream's 256 KiB make the client wait, until half of it is read", () => {
  const { backlog, streams, changes } = streamsOf(2);
  const [stream, other] = streams;
  for (let count = 0; count < 3; count += 1) stream?.receive(bytes(64 * KB), false);
  other?.receive(bytes(64 * KB), false);
  expect(backlog.full).toBe(false);
  stream?.receive(bytes(64 * KB), false);
  expect(backlog.full).toBe(true);
  stream?.read();
  expect(backlog.full).toBe(true);
  for (let count = 0; count < 3; count += 1) stream?.read();
  expect(backlog.full).toBe(false);
  expect(changes()).toBe(2);
});

test("1 MB in many streams makes the client wait, until half of it has gone", () => {
  const { backlog, streams } = streamsOf(16);
  for (const stream of streams.slice(0, 15)) stream.receive(bytes(65 * KB), false);
  expect(backlog.full).toBe(false);
  streams[15]?.receive(bytes(65 * KB), false);
  expect(backlog.full).toBe(true);
  for (const stream of streams.slice(0, 7)) stream.destroy();
  expect(backlog.full).toBe(true);
  for (const stream of streams) stream.destroy();
  expect(backlog.full).toBe(false);
});

test("a flood of tiny pieces counts as more than its bytes", () => {
  const { backlog, streams } = streamsOf(1);
  for (let count = 0; count < 1_100; count += 1) streams[0]?.receive(bytes(1), false);
  expect(backlog.full).toBe(true);
});

/** A SPDY connection with open streams, to which the test is the client. */
async function connection(count: number) {
  const transport = new Duplex({ read() {}, write() {}, writableHighWaterMark: 64 * KB });
  const streams: SpdyStream[] = [];
  const session = new SpdySession(transport, {
    idleTimeoutMs: 60_000,
    maxStreams: count,
    refuse: () => undefined,
    opened: (stream) => streams.push(stream),
  });
  session.start(Buffer.alloc(0));
  const writer = new HeaderWriter();
  for (let index = 0; index < count; index += 1) {
    transport.push(synStream(2 * index + 1, writer.write({ streamtype: "data" })));
  }
  await turn();
  return { transport, streams };
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

test.each([1, 10, 100])(
  "%d streams that nobody reads hold at most 1 MB and a frame",
  async (count) => {
    const { transport, streams } = await connection(count);
    let sent = 0;
    let most = 0;
    for (; sent < 10_000 && !transport.isPaused(); sent += 1) {
      transport.push(dataFrame(2 * (sent % count) + 1, bytes(16 * KB)));
      await turn();
      most = Math.max(
        most,
        streams.reduce((sum, stream) => sum + stream.queuedBytes + stream.readableLength, 0),
      );
    }
    expect(sent).toBeLessThan(10_000);
    // Readable takes one piece of each stream when it is read; nobody has.
    expect(most).toBeLessThanOrEqual(MB + 32 * KB);
    transport.destroy();
  },
);

test("output for a client that does not read stops at less than 1 MB", async () => {
  const { transport, streams } = await connection(1);
  let produced = 0;
  const source = new Readable({
    read() {
      produced += 256 * KB;
      this.push(bytes(256 * KB));
    },
  });
  const [stream] = streams;
  if (stream !== undefined) source.pipe(stream);
  for (let count = 0; count < 100; count += 1) await turn();
  expect(produced).toBeLessThanOrEqual(MB);
  expect(transport.writableLength).toBeLessThanOrEqual(MB);
  source.destroy();
  transport.destroy();
});
