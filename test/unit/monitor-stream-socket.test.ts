import { afterAll, afterEach, expect, test } from "bun:test";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { StreamSocket } from "../../src/monitor/stream-socket.ts";

const directory = mkdtempSync(join(tmpdir(), "crib-stream-"));
const servers: Server[] = [];

afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

afterAll(() => rmSync(directory, { recursive: true }));

/** A connection, and its other side. */
async function connected(): Promise<[StreamSocket, Socket]> {
  const accepted = Promise.withResolvers<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => accepted.resolve(socket));
  servers.push(server);
  const unix = join(directory, String(servers.length));
  server.listen(unix);
  await once(server, "listening");
  const stream = await StreamSocket.connect({ unix });
  return [stream, (await accepted.promise).on("error", () => {})];
}

async function textOf(stream: StreamSocket | Socket): Promise<string> {
  const chunks: Buffer[] = [];
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  await once(stream, "end");
  return Buffer.concat(chunks).toString();
}

test("each side ends its own, in either order, and all that was said arrives", async () => {
  const bytes = "0123456789".repeat(300_000);
  const [first, peer] = await connected();
  first.end(bytes);
  expect((await textOf(peer)) === bytes).toBe(true);
  peer.end(bytes);
  expect((await textOf(first)) === bytes).toBe(true);
  const [second, other] = await connected();
  other.end(bytes);
  expect((await textOf(second)) === bytes).toBe(true);
  second.end(bytes);
  expect((await textOf(other)) === bytes).toBe(true);
});

test("one that is held reads nothing, also when somebody wants it", async () => {
  const [stream, peer] = await connected();
  stream.hold(true);
  const text = textOf(stream);
  peer.end("hello");
  await Bun.sleep(50);
  expect(stream.bytesRead).toBe(0);
  stream.hold(false);
  expect(await text).toBe("hello");
});

test("an error that it ends with comes behind all that was said", async () => {
  const [stream, peer] = await connected();
  stream.endsWith(Promise.resolve(new Error("as told")));
  peer.end("last words");
  await Bun.sleep(50);
  const [chunk] = await once(stream, "data");
  expect(String(chunk)).toBe("last words");
  expect(await once(stream, "error").catch((error) => [error])).toMatchObject([
    { message: "as told" },
  ]);
});

test("writing to one whose other side is gone fails, and does not wait for ever", async () => {
  const [stream, peer] = await connected();
  stream.resume();
  const ended = once(stream, "end");
  peer.destroy();
  await ended;
  await Bun.sleep(50);
  const error = await new Promise((resolve) => stream.write("x", resolve));
  expect(error).toBeInstanceOf(Error);
});
