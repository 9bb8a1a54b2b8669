/** What clients of WebSocket and port-forward send in no order that makes sense. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { Duplex, PassThrough } from "node:stream";
import { Forwarder } from "../../src/streaming/forward.ts";
import { ResizeParser } from "../../src/streaming/resize.ts";
import { SpdyPortForward } from "../../src/streaming/spdy-port-forward.ts";
import { SpdySession } from "../../src/streaming/spdy-session.ts";
import { WebSocketConnection } from "../../src/streaming/websocket.ts";
import { commandChannels } from "../../src/streaming/websocket-command.ts";
import { tunnel } from "../../src/streaming/websocket-port-forward.ts";
import { FUZZ_MS, randomOf } from "../fixtures/fuzz.ts";
import { controlFrame, dataFrame, HeaderWriter, synStream, u32 } from "../fixtures/spdy-client.ts";
import { clientFrame } from "../fixtures/websocket.ts";

setDefaultTimeout(FUZZ_MS * 2 + 30_000);

type Random = (below: number) => number;

/** A client's connection; what the server sends gets stuck now and then. */
function transportOf(random: Random): Duplex {
  return new Duplex({
    read() {},
    write(_chunk, _encoding, callback) {
      if (random(10) === 0) setImmediate(callback);
      else callback();
    },
  });
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
const bytes = (random: Random, most: number) =>
  Buffer.from(Array.from({ length: random(most) }, () => random(256)));

/** Runs rounds for as long as fuzzing takes. */
async function rounds(round: (random: Random) => Promise<void>): Promise<void> {
  const end = performance.now() + FUZZ_MS;
  for (let seed = 0; performance.now() < end || seed < 50; seed += 1) await round(randomOf(seed));
}

function someMessage(random: Random): Buffer {
  const channel = [0, 1, 4, 255, 48, 52, 77][random(7)] ?? 0;
  const payload = Buffer.concat([Buffer.from([channel]), bytes(random, 40)]);
  const text = Buffer.from(payload.toString("latin1").replaceAll(/[^ -~]/g, "="), "latin1");
  const kinds = [
    () => clientFrame({ opcode: "binary", payload }),
    () => clientFrame({ opcode: "text", payload: text }),
    () => clientFrame({ opcode: "binary", payload, fin: false }),
    () => clientFrame({ opcode: "continuation", payload: text, fin: random(2) === 0 }),
    () => clientFrame({ opcode: "ping", payload: text.subarray(0, 20) }),
    () => clientFrame({ opcode: "close", payload: bytes(random, 4) }),
    () => bytes(random, 30),
  ];
  // The last four end most connections.
  return (kinds[random(12) === 0 ? random(kinds.length) : random(3)] ?? (() => payload))();
}

test("WebSocket channels, plain and in base64: all streams end with the connection and hold nothing", () =>
  rounds(async (random) => {
    const transport = transportOf(random);
    const connection = new WebSocketConnection(transport, 60_000);
    const request = { tty: true, stdin: true, stdout: true, stderr: false };
    const protocol = { base64: random(2) === 0, halfClose: random(2) === 0, jsonStatus: true };
    const channels = commandChannels(connection, Buffer.alloc(0), request, protocol);
    channels.onResize(() => {});
    if (random(2) === 0) channels.stdin?.resume();
    for (let left = random(40); left > 0 && !transport.destroyed; left -= 1) {
      if (!transport.readableEnded) transport.push(someMessage(random));
      if (random(3) === 0) channels.stdout?.write(bytes(random, 100));
      if (random(3) === 0) await turn();
    }
    transport.destroy();
    await connection.closed;
    await turn();
    expect([channels.stdin?.destroyed, channels.stdout?.destroyed]).toEqual([true, true]);
  }));

/** A frame of a client that forwards ports. */
function someForward(random: Random, writer: HeaderWriter, next: () => number): Buffer {
  const streamtype = ["error", "data", "data", "stdin"][random(4)] ?? "";
  const headers = { streamtype, port: String([80, 81, 0][random(3)]), requestid: `${random(6)}` };
  const id = 1 + 2 * random(20);
  const kinds = [
    () => synStream(next(), writer.write(headers), random(2)),
    () => synStream(next(), writer.write(headers)),
    () => dataFrame(id, bytes(random, 50), random(4) === 0),
    () => controlFrame(3, 0, u32(id), u32(5)),
    () => bytes(random, 12),
  ];
  return (kinds[random(40) === 0 ? 4 : random(4)] ?? (() => Buffer.alloc(0)))();
}

test("port-forward over SPDY, bare and in a tunnel: all connections end with the client", () =>
  rounds(async (random) => {
    const outer = transportOf(random);
    const inTunnel = random(2) === 0;
    const connection = inTunnel ? new WebSocketConnection(outer, 60_000) : undefined;
    const transport = connection === undefined ? outer : tunnel(connection, Buffer.alloc(0));
    const targets: Duplex[] = [];
    const dial = async (_: string, port: number) => {
      if (random(2) === 0) await turn();
      if (port === 81) throw new Error("refused");
      const target = Object.assign(new PassThrough(), { hold: () => {} });
      targets.push(target);
      return target;
    };
    const forwarder = new Forwarder({ dial }, "p1");
    const forwards: Promise<void>[] = [];
    const connections = new SpdyPortForward(60_000, (it) => forwards.push(forwarder.forward(it)));
    const session = new SpdySession(transport, {
      idleTimeoutMs: 60_000,
      maxStreams: 30,
      refuse: (headers) => connections.refuse(headers),
      opened: (stream) => connections.opened(stream),
    });
    session.start(Buffer.alloc(0));
    const writer = new HeaderWriter();
    let last = -1;
    const next = () => {
      last += 2;
      return last;
    };
    for (let left = random(60); left > 0 && !outer.destroyed; left -= 1) {
      const frame = someForward(random, writer, next);
      if (!outer.readableEnded) {
        outer.push(inTunnel ? clientFrame({ opcode: "binary", payload: frame }) : frame);
      }
      if (random(8) === 0) targets[random(targets.length)]?.destroy();
      if (random(3) === 0) await turn();
    }
    outer.destroy();
    await session.closed;
    await Promise.all(forwards);
    connections.close();
    expect(targets.filter((it) => !it.destroyed)).toEqual([]);
    expect(connections.pending).toBe(0);
  }));

test("terminal sizes: whatever comes is a size, nothing, or an error that says so", () =>
  rounds(async (random) => {
    const parser = new ResizeParser();
    for (let left = random(40); left > 0; left -= 1) {
      const size = `{"Width":${random(70_000)},"Height":${random(300)}}`;
      const piece = random(20) === 0 ? bytes(random, 30) : Buffer.from(size.slice(random(2) * 9));
      try {
        const result = parser.push(piece.subarray(random(2) * random(5)));
        if (result !== undefined) expect(result.columns * result.rows).toBeGreaterThan(0);
      } catch (error) {
        expect(String(error)).toContain("resize: ");
        return;
      }
    }
  }));
