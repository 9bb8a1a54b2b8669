/** Connections into a pod's network namespace, through a real monitor. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { createServer, type Server } from "node:net";
import type { Duplex } from "node:stream";
import { Connection } from "../../src/monitor/connection.ts";
import {
  decodeDialEnd,
  encodeDial,
  encodeDialEnd,
  encodeHello,
} from "../../src/monitor/protocol.ts";
import { openStream } from "../../src/monitor/stream.ts";
import { until } from "../fixtures/until.ts";
import { buildMonitor, read, TestPod } from "./monitor-harness.ts";

/**
 * Ports: 7 echoes, 9 is silent, 19 says much, 70 speaks IPv6 only, 71 answers when its client has ended, 73
 * says something and resets who has answered or ended, 74 ends at once and reads later; 75 says how much that
 * was.
 */
const SERVER = `
import { createServer } from "node:net";
const listen = (port, host, handler) => createServer({ allowHalfOpen: true }, (socket) => {
  socket.on("error", () => {});
  handler(socket);
}).listen(port, host);
const echo = (socket) => socket.pipe(socket);
listen(7, "127.0.0.1", echo);
listen(9, "127.0.0.1", (socket) => { socket.pause(); });
listen(19, "127.0.0.1", (socket) => { socket.end(Buffer.alloc(20_000_000, "chargen")); });
listen(70, "::1", echo);
listen(73, "127.0.0.1", (socket) => {
  socket.write("last words");
  socket.once("data", () => socket.resetAndDestroy());
  socket.once("end", () => socket.resetAndDestroy());
});
let late;
listen(74, "127.0.0.1", (socket) => {
  let bytes = 0;
  socket.pause().end();
  setTimeout(() => socket.on("data", (chunk) => { bytes += chunk.length; }).resume(), 1000);
  late = new Promise((resolve) => socket.once("close", () => resolve(bytes)));
});
listen(75, "127.0.0.1", (socket) => { late.then((bytes) => socket.end(String(bytes))); });
listen(71, "127.0.0.1", (socket) => {
  let bytes = 0;
  socket.on("data", (chunk) => { bytes += chunk.length; });
  socket.on("end", () => { socket.end("got " + bytes); });
}).on("listening", () => console.log("ready"));
`;
const DEADLINE_MS = 10_000;

let pod: TestPod;
let server: ReturnType<typeof serve>;

/** What fits between the monitor and a port would else differ by some 400 KB from one connection to the next. */
const SMALL_BUFFERS = `for name in tcp_rmem tcp_wmem; do
  echo 4096 16384 16384 > /proc/sys/net/ipv4/$name || exit 1
done`;

function serve() {
  const netns = `--net=${pod.path("net.ns")}`;
  const { exitCode } = Bun.spawnSync(["nsenter", netns, "sh", "-c", SMALL_BUFFERS]);
  expect(exitCode).toBe(0);
  const argv = ["nsenter", netns, process.execPath, "-e", SERVER];
  return Bun.spawn(argv, { stdout: "pipe", stderr: "inherit" });
}

beforeAll(async () => {
  pod = await TestPod.start(buildMonitor(), {}, ["net"]);
  server = serve();
  await server.stdout.getReader().read();
});
afterAll(async () => {
  server.kill();
  await server.exited;
  await pod.dispose();
});

const dial = (port: number) => pod.monitor.dial(port, DEADLINE_MS);
const failure = (port: number) =>
  dial(port).then(
    () => "connected",
    (error: { code: string; message: string }) => `${error.code}: ${error.message}`,
  );

test("bytes go both ways, whole, and each side's end is told", async () => {
  const socket = await dial(7);
  const bytes = Buffer.alloc(3_000_000, "0123456789abc");
  socket.end(bytes);
  expect((await read(socket)) === bytes.toString()).toBe(true);
  expect((await read(await dial(19))).length).toBe(20_000_000);
  const half = await dial(71);
  half.end("x".repeat(1_000_000));
  expect(await read(half)).toBe("got 1000000");
});

const ending = (socket: Duplex) =>
  new Promise<string>((resolve) => {
    socket.once("error", (error) => resolve(error.message)).once("end", () => resolve("end"));
  });

test.each(["write", "end"] as const)(
  "a reset is told as one behind all that was said, also after our own end: %s",
  async (how) => {
    const socket = await dial(73);
    const ended = ending(socket);
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk;
    });
    if (how === "write") socket.write("x");
    else socket.end();
    expect(await ended).toBe("connection reset by peer");
    expect(text).toBe("last words");
  },
);

test.each([
  ["in good order", 7, 0],
  ["by a reset", 73, 104],
] as const)(
  "a port that has ended %s before the daemon asks for its end",
  async (_, port, errno) => {
    const own = await TestPod.start(buildMonitor(), {}, []);
    const ownServer = Bun.spawn([process.execPath, "-e", SERVER], {
      stdout: "pipe",
      stderr: "inherit",
    });
    try {
      await ownServer.stdout.getReader().read();
      own.monitor.disconnect();
      const connection = await Connection.open(own.directory, DEADLINE_MS, () => undefined);
      await connection.call(encodeHello).reply;
      const { number, socket } = await openStream(own.directory, DEADLINE_MS);
      await connection.call((request) => encodeDial(request, number, port, DEADLINE_MS)).reply;
      socket.end("x");
      await read(socket);
      const ask = () => connection.call((request) => encodeDialEnd(request, number)).reply;
      expect(decodeDialEnd(await ask())).toBe(errno);
      await until("it is forgotten", async () => (await ask().catch(codeOf)) === "NotFound");
    } finally {
      // Not ours any more: it would outlive the test.
      await own.adopt();
      ownServer.kill();
      await ownServer.exited;
      await own.dispose();
    }
  },
);
const codeOf = (error: { code: string }) => error.code;

const PIECE = Buffer.alloc(16_384);

/** Writes piece after piece, at most `limit`, until none is taken any more; returns how many were. */
async function fill(socket: Duplex, limit = Infinity): Promise<number> {
  for (let pieces = 0; pieces < limit; pieces++) {
    const written = new Promise((resolve) => socket.write(PIECE, () => resolve(true)));
    if (!(await Promise.race([written, Bun.sleep(500)]))) return pieces;
  }
  return limit;
}

test("a port that has ended, and reads later, gets all that its client sent before it left", async () => {
  // With small buffers at most 6 are between the monitor and the port; 12 wait for the monitor.
  const pieces = 10;
  const silent = await dial(9);
  expect(await fill(silent)).toBeGreaterThan(pieces);
  silent.destroy();
  const socket = await dial(74);
  const ended = ending(socket);
  socket.resume();
  expect(await ended).toBe("end");
  expect(await fill(socket, pieces)).toBe(pieces);
  socket.end();
  expect(await read(await dial(75))).toBe(String(pieces * PIECE.length));
});

test("what is on IPv6 only is found too", async () => {
  const socket = await dial(70);
  socket.end("six");
  expect(await read(socket)).toBe("six");
});

test("a port that nobody listens on is refused, with both addresses", async () => {
  expect(await failure(1)).toBe(
    "FailedPrecondition: pod monitor: dial: 127.0.0.1:1, [::1]:1: Connection refused",
  );
});

test("a port that does not answer is given up at the deadline", async () => {
  const netns = `--net=${pod.path("net.ns")}`;
  const rule = ["-A", "INPUT", "-p", "tcp", "--dport", "72", "-j", "DROP"];
  expect(spawnSync("nsenter", [netns, "iptables", ...rule]).status).toBe(0);
  const error = await pod.monitor.dial(72, 300).catch((reason: unknown) => reason);
  expect(error).toMatchObject({
    code: "DeadlineExceeded",
    message: expect.stringContaining("127.0.0.1:72, [::1]:72: no answer in time"),
  });
});

test("the host's ports are not the pod's, unless the pod has the host's network", async () => {
  const { promise, resolve } = Promise.withResolvers<Server>();
  const own = createServer((socket) => socket.end("host")).listen(0, "127.0.0.1", () =>
    resolve(own),
  );
  const address = (await promise).address();
  const port = typeof address === "object" ? (address?.port ?? 0) : 0;
  const other = await TestPod.start(buildMonitor());
  try {
    expect(await failure(port)).toContain("Connection refused");
    expect(await read(await other.monitor.dial(port, DEADLINE_MS))).toBe("host");
  } finally {
    own.close();
    await other.dispose();
  }
});

test("300 at once, among them some that do not read, or are reset", async () => {
  const silent = await Promise.all(Array.from({ length: 20 }, () => dial(9)));
  for (const socket of silent) socket.write(Buffer.alloc(2_000_000));
  const unread = await Promise.all(Array.from({ length: 20 }, () => dial(19)));
  for (const socket of unread) socket.pause();
  const all = Array.from({ length: 300 }, async (_, index) => {
    const socket = await dial(7);
    if (index % 10 === 0) {
      socket.destroy();
      return;
    }
    socket.end(Buffer.alloc(200_000, `${index} `));
    expect((await read(socket)).length).toBe(200_000);
  });
  await Promise.all(all);
  for (const socket of [...silent, ...unread]) socket.destroy();
}, 60_000);

test("they leave no descriptor behind", async () => {
  const descriptors = () => readdirSync(`/proc/${pod.monitor.pid}/fd`).length;
  await until("all are closed", () => descriptors() < 12);
});
