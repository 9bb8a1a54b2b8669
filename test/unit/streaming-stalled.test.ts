/** What a client that takes nothing costs: counted, with every byte that was read from its ports. */
import { afterAll, afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Duplex } from "node:stream";
import { StreamSocket } from "../../src/monitor/stream-socket.ts";
import type { ForwardedConnection } from "../../src/streaming/channels.ts";
import { Forwarder } from "../../src/streaming/forward.ts";
import { SpdyPortForward } from "../../src/streaming/spdy-port-forward.ts";
import { SpdySession } from "../../src/streaming/spdy-session.ts";
import { WebSocketConnection } from "../../src/streaming/websocket.ts";
import { channelConnections, tunnel } from "../../src/streaming/websocket-port-forward.ts";
import { HeaderWriter, synStream } from "../fixtures/spdy-client.ts";
import { clientFrame } from "../fixtures/websocket.ts";

setDefaultTimeout(30_000);

const MB = 1024 * 1024;
const EMPTY = Buffer.alloc(0);
const HOUR_MS = 3_600_000;
const directory = mkdtempSync(join(tmpdir(), "crib-stalled-"));
const cleanUp: Array<() => void> = [];

afterEach(() => {
  for (const each of cleanUp.splice(0)) each();
});
afterAll(() => rmSync(directory, { recursive: true }));

/** The server's side of a client's connection, of which the client takes what it is let. */
class Transport extends Duplex {
  takenBytes = 0;
  #taken: (() => void) | undefined;

  override _read(): void {}

  override _write(chunk: Buffer, _: string, callback: () => void): void {
    this.#taken = () => {
      this.takenBytes += chunk.length;
      callback();
    };
  }

  letTake(): void {
    const taken = this.#taken;
    this.#taken = undefined;
    taken?.();
  }
}

/** A port that has no end, reached by a unix socket as in a pod's monitor. */
async function endlessPort(name: string): Promise<{ path: string; sockets: Socket[] }> {
  const path = join(directory, name);
  const zeros = Buffer.alloc(65_536);
  const sockets: Socket[] = [];
  const flood = (socket: Socket) => {
    while (!socket.destroyed && socket.write(zeros));
  };
  const server: Server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {}).on("drain", () => flood(socket));
    flood(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  cleanUp.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { path, sockets };
}

/** SPDY on a transport: what the client sends opens the connections. */
function overSpdy(transport: Duplex, forwarder: Forwarder, send: (bytes: Buffer) => void) {
  const forward = (it: ForwardedConnection) => void forwarder.forward(it);
  const connections = new SpdyPortForward(HOUR_MS, forward);
  const session = new SpdySession(transport, {
    idleTimeoutMs: HOUR_MS,
    maxStreams: 1000,
    refuse: (headers) => connections.refuse(headers),
    opened: (stream) => connections.opened(stream),
    blocked: (blocked) => forwarder.hold(blocked),
  });
  session.start(EMPTY);
  const writer = new HeaderWriter();
  for (let id = 1; id < 4 * COUNT; id += 4) {
    for (const [index, streamtype] of ["error", "data"].entries()) {
      const headers = { streamtype, port: "80", requestid: String(id) };
      send(synStream(id + 2 * index, writer.write(headers)));
    }
  }
}

const COUNT = 200;
const wires = {
  SPDY: (transport: Transport, forwarder: Forwarder) => {
    overSpdy(transport, forwarder, (bytes) => transport.push(bytes));
    return COUNT;
  },
  "SPDY in a WebSocket": (transport: Transport, forwarder: Forwarder) => {
    const inner = tunnel(new WebSocketConnection(transport, HOUR_MS), EMPTY);
    overSpdy(inner, forwarder, (payload) =>
      transport.push(clientFrame({ opcode: "binary", payload })),
    );
    return COUNT;
  },
  "WebSocket channels": (transport: Transport, forwarder: Forwarder) => {
    const connection = new WebSocketConnection(transport, HOUR_MS);
    connection.onBlocked = (blocked) => forwarder.hold(blocked);
    const encoding = { base64: false, halfClose: false };
    const ports = Array<number>(128).fill(80);
    const connections = channelConnections(connection, EMPTY, encoding, ports);
    for (const it of connections) void forwarder.forward(it);
    return connections.length;
  },
};

test.each(Object.entries(wires))(
  "%s: of hundreds of ports that flood a client that takes nothing, at most 1 MB is held; then each has its turn",
  async (name, connect) => {
    const { path } = await endlessPort(name.replaceAll(" ", ""));
    const ports: StreamSocket[] = [];
    const dial = async () => {
      const port = await StreamSocket.connect({ unix: path });
      ports.push(port);
      return port;
    };
    const transport = new Transport();
    const count = connect(transport, new Forwarder({ dial }, "p1"));
    cleanUp.push(() => transport.destroy());
    while (ports.length < count) await Bun.sleep(1);
    const held = () =>
      ports.reduce((sum, { bytesRead }) => sum + bytesRead, 0) - transport.takenBytes;
    for (let turns = 0; turns < 100; turns += 1) await Bun.sleep(1);
    expect(held()).toBeGreaterThan(0);
    expect(held()).toBeLessThan(MB);
    let most = 0;
    while (ports.some(({ bytesRead }) => bytesRead < 100_000)) {
      transport.letTake();
      await new Promise((resolve) => setImmediate(resolve));
      most = Math.max(most, held());
    }
    expect(most).toBeLessThan(MB);
  },
);
