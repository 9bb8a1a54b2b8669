import { expect, test } from "bun:test";
import { Duplex } from "node:stream";
import { SpdySession } from "../../src/streaming/spdy-session.ts";
import type { SpdyStream } from "../../src/streaming/spdy-stream.ts";
import { FUZZ_MS, randomOf } from "../fixtures/fuzz.ts";
import { controlFrame, dataFrame, HeaderWriter, synStream, u32 } from "../fixtures/spdy-client.ts";

type Random = (below: number) => number;

/** A frame as a client could send it, in no order that makes sense. */
function someFrame(random: Random, writer: HeaderWriter): Buffer {
  const id = random(12);
  const kinds = [
    () => synStream(id, writer.write({ streamtype: "x".repeat(random(20)) }), random(3)),
    () => synStream(id * 2 + 1, writer.write({ streamtype: "data" }), random(2)),
    () =>
      dataFrame(id, Buffer.alloc(random(4) === 0 ? random(70_000) : random(20)), random(4) === 0),
    () => controlFrame(3, 0, u32(id), u32(random(9))),
    () => controlFrame(8, random(2), u32(id), writer.write({ a: "b" })),
    () => controlFrame(6, 0, u32(random(5))),
    () => controlFrame(random(12), random(256), Buffer.alloc(random(30), random(256))),
    () => Buffer.from(Array.from({ length: random(12) }, () => random(256))),
  ];
  // The last two end most connections.
  return (kinds[random(50) === 0 ? random(kinds.length) : random(6)] ?? (() => Buffer.alloc(0)))();
}

/** What a server's code does with a stream, at some time or other. */
function useSomehow(random: Random, stream: SpdyStream): void {
  const uses = [
    () => stream.resume(),
    () => stream.pause(),
    () => void stream.read(),
    () => void stream.write(Buffer.alloc(random(30_000))),
    () => stream.end(),
    () => stream.destroy(),
  ];
  if (!stream.writableEnded && !stream.destroyed) uses[random(uses.length)]?.();
}

/** A connection on which random frames come, are written, and get stuck. */
async function someConnection(random: Random): Promise<{ opened: number; failed: boolean }> {
  let stuck: (() => void) | undefined;
  const transport = new Duplex({
    read() {},
    write(_chunk, _encoding, callback) {
      if (random(10) === 0) stuck = callback;
      else callback();
    },
  });
  const streams: SpdyStream[] = [];
  const session = new SpdySession(transport, {
    idleTimeoutMs: 60_000,
    maxStreams: 4,
    refuse: () => (random(5) === 0 ? "no" : undefined),
    opened: (stream) => streams.push(stream),
  });
  session.start(Buffer.alloc(0));
  const writer = new HeaderWriter();
  let over = false;
  void session.over.then(() => {
    over = true;
  });
  for (let left = 1 + random(60); left > 0 && !over; left -= 1) {
    transport.push(someFrame(random, writer));
    const stream = streams[random(streams.length + 1)];
    if (stream !== undefined) useSomehow(random, stream);
    if (random(4) === 0) {
      stuck?.();
      stuck = undefined;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  const failed = over;
  transport.destroy();
  await session.closed;
  await session.over;
  expect(streams.filter((it) => !it.destroyed || it.queuedBytes !== 0)).toEqual([]);
  return { opened: streams.length, failed };
}

test("whatever comes, a connection's streams end with it and hold nothing", async () => {
  const end = performance.now() + FUZZ_MS;
  let [opened, failed, lasted] = [0, 0, 0];
  for (let seed = 0; performance.now() < end || seed < 50; seed += 1) {
    const result = await someConnection(randomOf(seed));
    opened += result.opened;
    if (result.failed) failed += 1;
    else lasted += 1;
  }
  expect(Math.min(opened, failed, lasted)).toBeGreaterThan(0);
});

test("headers cost next to nothing: what is no header of Kubernetes' is not kept", async () => {
  const streams: SpdyStream[] = [];
  const transport = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() });
  const session = new SpdySession(transport, {
    idleTimeoutMs: 60_000,
    maxStreams: 1_000,
    refuse: () => undefined,
    opened: (stream) => streams.push(stream),
  });
  session.start(Buffer.alloc(0));
  const writer = new HeaderWriter();
  const open = (id: number, headers: Record<string, string>) =>
    transport.push(synStream(id, writer.write(headers)));
  const bytes = () => JSON.stringify(streams.map(({ headers }) => headers)).length;
  for (let index = 0; index < 1_000; index += 1) {
    open(2 * index + 1, { requestid: String(index), x: "x".repeat(3_000) });
  }
  await new Promise((resolve) => setImmediate(resolve));
  expect(streams).toHaveLength(1_000);
  expect(bytes()).toBeLessThan(100_000);
  for (const stream of streams.splice(0, 2)) stream.destroy();
  open(2_001, { requestid: "x".repeat(64) });
  open(2_003, { requestid: "x".repeat(65) });
  await new Promise((resolve) => setImmediate(resolve));
  expect(streams).toHaveLength(999);
  let over = false;
  void session.over.then(() => {
    over = true;
  });
  open(2_005, { x: "x".repeat(5_000) });
  await new Promise((resolve) => setImmediate(resolve));
  expect(over).toBe(true);
  transport.destroy();
});
