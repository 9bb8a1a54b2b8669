import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { Base64Decoder } from "../../src/streaming/base64-decoder.ts";
import { ping } from "../../src/streaming/spdy-frames.ts";
import { FUZZ_MS, randomOf } from "../fixtures/fuzz.ts";
import { controlFrame, dataFrame, HeaderWriter, synStream, u32 } from "../fixtures/spdy-client.ts";
import { startStreaming, type TestServer } from "../fixtures/streaming.ts";
import { clientFrame, RawWebSocket } from "../fixtures/websocket.ts";

let it: TestServer;
const clients: RawWebSocket[] = [];
const targets: Server[] = [];

beforeEach(async () => {
  it = await startStreaming();
});

afterEach(async () => {
  for (const { socket } of clients.splice(0)) socket.destroy();
  for (const target of targets.splice(0)) target.close();
  await it[Symbol.asyncDispose]();
});

/** A port of this machine. */
async function target(serve: (socket: Socket) => void): Promise<number> {
  const server = createServer({ allowHalfOpen: true }, serve);
  targets.push(server);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

async function forward(ports: number[], protocol?: string): Promise<RawWebSocket> {
  const headers: Record<string, string> =
    protocol === undefined ? {} : { "Sec-WebSocket-Protocol": protocol };
  const client = await RawWebSocket.connect(it.forwardUrl(ports), headers);
  clients.push(client);
  return client;
}

/** The payloads of the next messages, the channel first. */
async function heard(client: RawWebSocket, count: number): Promise<string[]> {
  const payloads: string[] = [];
  while (payloads.length < count) {
    const frame = await client.next();
    if (frame === undefined) break;
    payloads.push(frame.payload.toString("latin1"));
  }
  return payloads;
}

const nameOf = (port: number) => String.fromCharCode(port & 255, port >>> 8);

describe("SPDY in a tunnel", () => {
  const tunnel = () => forward([], "SPDY/3.1+portforward.k8s.io");

  test("message boundaries mean nothing", async () => {
    const client = await tunnel();
    expect(client.answer.headers["sec-websocket-protocol"]).toBe("SPDY/3.1+portforward.k8s.io");
    const bytes = Buffer.concat([ping(1), ping(3)]);
    for (const cut of [bytes.subarray(0, 5), bytes.subarray(5, 13), bytes.subarray(13)]) {
      client.send("binary", cut);
    }
    let answer = Buffer.alloc(0);
    while (answer.length < bytes.length) {
      const frame = await client.next();
      if (frame === undefined) break;
      expect(frame.opcode).toBe("binary");
      answer = Buffer.concat([answer, frame.payload]);
    }
    expect(answer).toEqual(bytes);
  });

  test("a data stream that is reset before its dial fails harms nothing", async () => {
    const client = await tunnel();
    const gate = Promise.withResolvers<void>();
    it.backend.gate = gate.promise;
    const writer = new HeaderWriter();
    const streams = [
      synStream(1, writer.write({ streamtype: "error", port: "1", requestid: "1" })),
      synStream(3, writer.write({ streamtype: "data", port: "1", requestid: "1" })),
    ];
    client.send("binary", Buffer.concat([...streams, controlFrame(3, 0, u32(3), u32(5))]));
    let answer = Buffer.alloc(0);
    const next = async (what: Buffer) => {
      while (!answer.includes(what)) {
        answer = Buffer.concat([answer, (await client.next())?.payload ?? what]);
      }
    };
    await next(dataFrame(1, "", true));
    gate.resolve();
    client.send("binary", ping(1));
    await next(ping(1));
    client.send("close", "\x03\xe8");
    expect((await client.rest()).at(-1)).toBe("close 1000");
  });

  test("text in it closes it: 1003", async () => {
    const client = await tunnel();
    client.send("text", "hello");
    expect((await client.rest()).at(-1)).toBe("close 1003 text in a tunnel");
  });

  test("what is no SPDY ends it in good order", async () => {
    const client = await tunnel();
    client.send("binary", Buffer.alloc(64, 0xff));
    expect((await client.rest()).at(-1)).toBe("close 1000");
    while (it.server.sessions().length > 0) await Bun.sleep(1);
  });

  test("a client that says farewell is let go", async () => {
    const client = await tunnel();
    client.send("binary", ping(1));
    client.send("close", "\x03\xe8");
    expect((await client.rest()).at(-1)).toBe("close 1000");
    while (it.server.sessions().length > 0) await Bun.sleep(1);
  });
});

describe("two channels for each port", () => {
  test("no ports, or more than there are channels for, are refused: 400", async () => {
    const status = async (count: number, protocol?: string) =>
      (await forward(Array(count).fill(1), protocol)).answer.status;
    expect(await status(0)).toBe(400);
    expect(await status(0, "v4.channel.k8s.io")).toBe(400);
    expect(await status(129, "v4.channel.k8s.io")).toBe(400);
    expect(await status(128, "v4.channel.k8s.io")).toBe(101);
    expect(await status(41, "v4.base64.channel.k8s.io")).toBe(400);
    expect(await status(40, "v4.base64.channel.k8s.io")).toBe(101);
  });

  test("both begin with the port; data go both ways; the last target's end closes all", async () => {
    const first = await target((socket) => void socket.pipe(socket));
    const second = await target((socket) => void socket.end("bye"));
    const client = await forward([first, second], "v4.channel.k8s.io");
    expect(await heard(client, 5)).toEqual([
      `\x00${nameOf(first)}`,
      `\x01${nameOf(first)}`,
      `\x02${nameOf(second)}`,
      `\x03${nameOf(second)}`,
      "\x02bye",
    ]);
    client.send("binary", "\x00echo");
    expect(await heard(client, 1)).toEqual(["\x00echo"]);
    client.send("close", "\x03\xe8");
    expect(await client.rest()).toEqual(["close 1000"]);
  });

  test("when all targets have ended, so does the connection", async () => {
    const port = await target((socket) => void socket.end("bye"));
    const client = await forward([port]);
    expect(await client.rest()).toEqual([
      `binary \x00${nameOf(port)}`,
      `binary \x01${nameOf(port)}`,
      "binary \x00bye",
      "close 1000",
    ]);
    while (it.server.sessions().length > 0) await Bun.sleep(1);
  });

  test("a port that nobody serves is told on its error channel; the others go on", async () => {
    const port = await target((socket) => void socket.pipe(socket));
    const client = await forward([1, port], "v4.channel.k8s.io");
    const [, , , , error] = await heard(client, 5);
    expect(error).toStartWith("\x01cannot forward port 1 of pod p1: ");
    client.send("binary", "\x02still here");
    expect(await heard(client, 1)).toEqual(["\x02still here"]);
  });

  test("in base64, the port is as well", async () => {
    const port = await target((socket) => void socket.pipe(socket));
    const client = await forward([port], "v4.base64.channel.k8s.io");
    const name = Buffer.from(nameOf(port), "latin1").toString("base64");
    expect(await heard(client, 2)).toEqual([`0${name}`, `1${name}`]);
    client.send("text", `0${Buffer.from("echo").toString("base64")}`);
    expect(await heard(client, 1)).toEqual([`0${Buffer.from("echo").toString("base64")}`]);
  });

  test("a target that breaks off is told behind what it said; it holds up no other, whatever it is sent", async () => {
    const broken = await target((socket) => {
      socket.write("last words");
      socket.once("data", () => socket.resetAndDestroy());
    });
    const port = await target((socket) => void socket.pipe(socket));
    const client = await forward([broken, port], "v4.channel.k8s.io");
    expect((await heard(client, 5)).at(-1)).toBe("\x00last words");
    client.send("binary", "\x00x");
    const [error] = await heard(client, 1);
    expect(error).toStartWith(`\x01error forwarding port ${broken} of pod p1: ECONNRESET`);
    for (let count = 0; count < 100; count += 1) {
      client.socket.write(clientFrame({ opcode: "binary", payload: Buffer.alloc(65_536) }));
    }
    client.send("binary", "\x02still here");
    expect(await heard(client, 1)).toEqual(["\x02still here"]);
  });
});

test("base64 in random pieces is decoded as a whole", () => {
  const end = performance.now() + FUZZ_MS;
  for (let seed = 1; performance.now() < end; seed += 1) {
    const random = randomOf(seed);
    const bytes = Buffer.from(Array.from({ length: random(40) }, () => random(256)));
    const text = bytes.toString("base64");
    const decoder = new Base64Decoder();
    const decoded: Buffer[] = [];
    for (let at = 0; at < text.length; ) {
      const next = Math.min(text.length, at + random(7));
      const piece = decoder.decode(Buffer.from(text.slice(at, next)), next === text.length);
      if (piece === undefined) throw new Error(`seed ${seed}: ${text} is no base64`);
      decoded.push(piece);
      at = next;
    }
    expect(Buffer.concat(decoded)).toEqual(bytes);
  }
});
