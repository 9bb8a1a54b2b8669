import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from "node:tls";
import { makeCa, makeCertificate } from "../fixtures/certificates.ts";
import { dataFrame, HeaderWriter, SpdyClient, synStream } from "../fixtures/spdy-client.ts";
import { startStreaming } from "../fixtures/streaming.ts";
import { clientFrame, RawWebSocket } from "../fixtures/websocket.ts";

setDefaultTimeout(30_000);

const V4 = ["v4.channel.k8s.io"];
let directory: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "crib-streaming-"));
  for (const ca of ["ca", "other-ca"]) makeCa(directory, ca);
  makeCertificate(directory, "one", "ca");
  makeCertificate(directory, "two", "ca");
  makeCertificate(directory, "stranger", "other-ca");
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

const pem = (name: string) => readFileSync(join(directory, name), "utf8");
const tlsOf = (name: string, clientCa?: string) => ({
  cert: pem(`${name}.crt`),
  key: pem(`${name}.key`),
  clientCa,
});

/** Sends bytes and returns all that comes back. */
async function raw(url: string, bytes: string): Promise<string> {
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname, port: Number(port) });
  socket.on("error", () => {});
  socket.write(bytes);
  let answer = "";
  socket.on("data", (chunk) => {
    answer += chunk.toString();
  });
  await once(socket, "close");
  return answer;
}

test("the URL is on the address that was given, with a token", async () => {
  await using it = await startStreaming();
  expect(it.url("exec")).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/exec\/[\w-]{22}$/);
  expect(it.url("attach")).toMatch(/\/attach\/[\w-]{22}$/);
  expect(it.forwardUrl()).toMatch(/\/portforward\/[\w-]{22}$/);
});

test("a server on all addresses is reached by loopback", async () => {
  await using it = await startStreaming({ address: "0.0.0.0" });
  const url = it.url("exec", { stdin: true });
  expect(url).toStartWith("http://127.0.0.1:");
  expect((await SpdyClient.open(url, V4)).answer.status).toBe(101);
});

test.each(["::1", "::"])("a server on %s is reached by IPv6", async (address) => {
  await using it = await startStreaming({ address });
  const url = it.url("exec", { stdin: true });
  expect(url).toMatch(/^http:\/\/\[::1\]:\d+\/exec\//);
  expect((await SpdyClient.open(url, V4)).answer.status).toBe(101);
});

test("frames that come with the request are the first of the connection", async () => {
  await using it = await startStreaming();
  const writer = new HeaderWriter();
  const frames = ["error", "stdin"].map((streamtype, index) =>
    synStream(2 * index + 1, writer.write({ streamtype })),
  );
  const spdy = await SpdyClient.open(it.url("exec", { stdin: true }), V4, {
    headers: ["Connection: Upgrade", "Upgrade: SPDY/3.1"],
    after: Buffer.concat([...frames, dataFrame(3, "early", true)]),
  });
  const first = await it.backend.process();
  expect(await new Response(Readable.toWeb(first.stdin)).text()).toBe("early");
  spdy.socket.destroy();
  const after = clientFrame({ opcode: "binary", payload: "\x00early too" });
  const protocol = { "Sec-WebSocket-Protocol": "v5.channel.k8s.io" };
  const url = it.url("exec", { stdin: true });
  const webSocket = await RawWebSocket.connect(url, protocol, after);
  webSocket.send("binary", "\xff\x00");
  const second = await it.backend.process(1);
  expect(await new Response(Readable.toWeb(second.stdin)).text()).toBe("early too");
  webSocket.socket.destroy();
});

test("a port that is taken is an error that names it", async () => {
  await using it = await startStreaming();
  const port = Number(new URL(it.url("exec")).port);
  await expect(startStreaming({ port })).rejects.toThrow(
    `streaming server: 127.0.0.1, port ${port}`,
  );
});

test("the first of the client's protocols that the server knows is chosen", async () => {
  await using it = await startStreaming();
  const chosen = async (offered: string[]) => {
    const { answer, socket } = await SpdyClient.open(it.url("exec", { stdin: true }), offered);
    socket.destroy();
    expect(answer.status).toBe(101);
    return /x-stream-protocol-version: (.*)/i.exec(answer.headers)?.[1];
  };
  const all = ["v5", "v4", "v3", "v2"].map((it) => `${it}.channel.k8s.io`);
  expect(await chosen([...all, "channel.k8s.io"])).toBe("v4.channel.k8s.io");
  expect(await chosen([all.join(", ")])).toBe("v4.channel.k8s.io");
  expect(await chosen(["channel.k8s.io", "v4.channel.k8s.io"])).toBe("channel.k8s.io");
});

test("protocols that the server does not know: 403, with those that it knows", async () => {
  await using it = await startStreaming();
  const exec = await SpdyClient.open(it.url("exec", { stdin: true }), ["v9.channel.k8s.io"]);
  expect(exec.answer.status).toBe(403);
  expect(exec.answer.body).toContain("v9.channel.k8s.io");
  expect(exec.answer.headers).toContain(
    "X-Accepted-Stream-Protocol-Versions: v4.channel.k8s.io, v3.channel.k8s.io, " +
      "v2.channel.k8s.io, channel.k8s.io",
  );
  const forward = await SpdyClient.open(it.forwardUrl(), V4);
  expect(forward.answer.status).toBe(403);
  expect(forward.answer.headers).toContain("portforward.k8s.io");
});

test("no protocol, no upgrade, another upgrade: 400; another method: 405", async () => {
  await using it = await startStreaming();
  const status = async (protocols: string[], extra: Parameters<typeof SpdyClient.open>[2] = {}) =>
    (await SpdyClient.open(it.url("exec", { stdin: true }), protocols, extra)).answer.status;
  expect(await status([])).toBe(400);
  expect(await status([" , "])).toBe(400);
  expect(await status(V4, { headers: [] })).toBe(400);
  expect(await status(V4, { headers: ["Connection: Upgrade", "Upgrade: h2c"] })).toBe(400);
  expect(await status(V4, { method: "PUT" })).toBe(405);
});

test("tokens that are unknown, used or another path's, and other paths: 404", async () => {
  await using it = await startStreaming();
  const status = async (url: string) => {
    const client = await SpdyClient.open(url, V4);
    client.socket.destroy();
    return client.answer.status;
  };
  const url = it.url("exec", { stdin: true });
  expect(await status(`${url.slice(0, -1)}`)).toBe(404);
  expect(await status(url)).toBe(101);
  expect(await status(url)).toBe(404);
  const refused = it.url("exec", { stdin: true });
  expect((await SpdyClient.open(refused, ["v9"])).answer.status).toBe(403);
  expect(await status(refused)).toBe(404);
  const other = it.url("exec", { stdin: true });
  expect(await status(other.replace("/exec/", "/attach/"))).toBe(404);
  expect(await status(other)).toBe(404);
  for (const path of ["/", "/exec", "/exec/", "/metrics", "/exec/../exec/x", "/exec/a/b"]) {
    expect(await status(new URL(path, url).href)).toBe(404);
  }
  expect((await fetch(it.url("exec"))).status).toBe(400);
  expect((await fetch(new URL("/", url))).status).toBe(404);
  expect((await fetch(new URL("/", url), { method: "POST", body: "x".repeat(1e6) })).status).toBe(
    404,
  );
});

test("the query says nothing: streams are those of the RPC", async () => {
  await using it = await startStreaming();
  const { hostname, port, pathname } = new URL(it.url("exec", { stdin: true }));
  const url = `http://${hostname}:${port}${pathname}`;
  const answer = raw(
    url,
    `POST ${pathname}?stdout=1&command=sh HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n` +
      "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n",
  );
  while (it.server.sessions().length === 0) await Bun.sleep(1);
  await it.server.close();
  expect(await answer).toStartWith("HTTP/1.1 101 ");
});

test("a URL with a token may have a long query, which nobody reads", async () => {
  await using it = await startStreaming();
  const { pathname } = new URL(it.url("exec"));
  const request = `GET ${pathname}?command=${"x".repeat(4_000)} HTTP/1.1\r\nHost: x\r\n\r\n`;
  expect(await raw(it.url("exec"), request)).toContain("the Upgrade header is missing");
});

test("what is not HTTP, or has huge headers, gets an error and the connection's end", async () => {
  await using it = await startStreaming();
  const url = it.url("exec");
  expect(await raw(url, "\x16\x03\x01 not http\r\n\r\n")).toMatch(/^HTTP\/1.1 400 /);
  const huge = (path: string) =>
    `GET ${path} HTTP/1.1\r\nHost: x\r\nA: ${"x".repeat(40_000)}\r\n\r\n`;
  expect(await raw(url, huge("/"))).toStartWith("HTTP/1.1 404 ");
  expect(await raw(url, huge(new URL(url).pathname))).toMatch(/^HTTP\/1.1 4(31|00) /);
});

test("a request is a connection's only one: those that are sent after it do nothing", async () => {
  await using it = await startStreaming();
  const url = it.url("exec", { stdin: true });
  const request = (path: string) => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`;
  const { pathname } = new URL(url);
  const answer = await raw(url, `${request("/exec/x").repeat(1000)}${request(pathname)}`);
  expect(answer).toStartWith("HTTP/1.1 404 ");
  expect(answer.split("HTTP/1.1")).toHaveLength(2);
  // Else the last one would have used up the token.
  const client = await SpdyClient.open(url, V4);
  expect(client.answer.status).toBe(101);
  client.socket.destroy();
});

test("more sessions than allowed are refused: by the RPC, and by 503", async () => {
  await using it = await startStreaming({ maxSessions: 2 });
  const urls = [1, 2, 3].map(() => it.url("exec", { stdin: true }));
  const clients = [];
  for (const url of urls) clients.push(await SpdyClient.open(url, V4));
  expect(clients.map(({ answer }) => answer.status)).toEqual([101, 101, 503]);
  expect(() => it.url("exec")).toThrow("2 streaming sessions are open (streaming.max_sessions)");
  expect(it.server.sessions()).toMatchObject([
    { kind: "exec", object: "c1" },
    { kind: "exec", object: "c1" },
  ]);
  clients[0]?.socket.destroy();
  while (it.server.sessions().length > 1) await Bun.sleep(1);
  it.url("exec");
});

test("when the server is closed its clients are told, and their processes given up", async () => {
  const it = await startStreaming();
  const exec = await SpdyClient.open(it.url("exec", { stdin: true }), V4);
  const error = await exec.stream({ streamtype: "error" });
  await exec.stream({ streamtype: "stdin" });
  const process = await it.backend.process();
  const forward = await SpdyClient.open(it.forwardUrl(), ["portforward.k8s.io"]);
  const stalled = await SpdyClient.open(it.url("exec", { stdin: true }), V4);
  stalled.socket.pause();
  await it.server.close();
  expect(exec.text(error)).toContain("the container runtime is shutting down");
  expect(process.closed).toBe(true);
  await forward.until("the end", () => forward.ended);
  while (it.server.sessions().length > 0) await Bun.sleep(1);
});

/** Over TLS, up to the first line of the answer. */
async function overTls(url: string, options: ConnectionOptions) {
  const { hostname, port, pathname } = new URL(url);
  const socket: TLSSocket = connectTls({ host: hostname, port: Number(port), ...options });
  const lines = [
    `POST ${pathname} HTTP/1.1`,
    "Host: x",
    "Connection: Upgrade",
    "Upgrade: SPDY/3.1",
    `X-Stream-Protocol-Version: ${V4[0]}`,
  ];
  try {
    await once(socket, "secureConnect");
    socket.write(`${lines.join("\r\n")}\r\n\r\n`);
    const closed = once(socket, "close").then(() => [Buffer.from("closed")]);
    const [chunk] = (await Promise.race([once(socket, "data"), closed])) as [Buffer];
    const serial = socket.getPeerCertificate().subject?.CN;
    return { line: chunk.toString().split("\r\n")[0], serial, session: socket.getSession() };
  } finally {
    socket.destroy();
  }
}

test("over TLS, with certificates that can be renewed", async () => {
  await using it = await startStreaming({ tls: tlsOf("one") });
  const ca = pem("ca.crt");
  const url = it.url("exec", { stdin: true });
  expect(url).toStartWith("https://127.0.0.1:");
  const answer = { line: "HTTP/1.1 101 Switching Protocols" };
  expect(await overTls(url, { ca })).toMatchObject({ ...answer, serial: "one" });
  it.server.renew(tlsOf("two"));
  const again = it.url("exec", { stdin: true });
  expect(await overTls(again, { ca })).toMatchObject({ ...answer, serial: "two" });
  expect(() => it.server.renew({ ...tlsOf("one"), key: "nonsense" })).toThrow();
  const third = it.url("exec", { stdin: true });
  expect(await overTls(third, { ca })).toMatchObject({ ...answer, serial: "two" });
});

test("a client CA that is replaced: who has no certificate of the new one is refused", async () => {
  const [ca, otherCa] = [pem("ca.crt"), pem("other-ca.crt")];
  await using it = await startStreaming({ tls: tlsOf("one", ca) });
  const url = () => it.url("exec", { stdin: true });
  let session: Buffer | undefined;
  const line = async (client: object) => {
    const answer = await overTls(url(), { ca, ...client, ...(session && { session }) });
    session ??= answer.session;
    return `${answer.line?.slice(0, 12)}, ${answer.serial}`;
  };
  const refused = async (client: object) =>
    line(client).then(
      (text) => text.startsWith("closed"),
      () => true,
    );
  const none = { cert: undefined, key: undefined };
  expect(await line(tlsOf("two"))).toBe("HTTP/1.1 101, one");
  it.server.renew(tlsOf("two", ca));
  expect(await line(tlsOf("two"))).toBe("HTTP/1.1 101, two");
  for (const client of [none, tlsOf("stranger")]) expect(await refused(client)).toBe(true);
  it.server.renew(tlsOf("two", otherCa));
  expect(await line(tlsOf("stranger"))).toBe("HTTP/1.1 101, two");
  for (const client of [none, tlsOf("one"), tlsOf("two")]) expect(await refused(client)).toBe(true);
  // With the session of a handshake that was good once, too.
  session = undefined;
  expect(await line(tlsOf("stranger"))).toBe("HTTP/1.1 101, two");
  it.server.renew(tlsOf("two", ca));
  expect(await refused(tlsOf("stranger"))).toBe(true);
});

test("many connections that say nothing do not keep clients out", async () => {
  await using it = await startStreaming();
  const { hostname, port } = new URL(it.url("exec"));
  const silent = Array.from({ length: 400 }, () => connect({ host: hostname, port: Number(port) }));
  for (const socket of silent) socket.on("error", () => {}).resume();
  await Promise.all(silent.slice(0, 100).map((socket) => once(socket, "close")));
  const { answer, socket } = await SpdyClient.open(it.url("exec", { stdin: true }), V4);
  expect(answer.status).toBe(101);
  for (const it of [socket, ...silent]) it.destroy();
});

test("many clients that were refused do not stay", async () => {
  await using it = await startStreaming();
  const { hostname, port } = new URL(it.url("exec"));
  let closed = 0;
  const refused: Socket[] = [];
  for (let count = 0; count < 400; count += 1) {
    const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true });
    socket
      .on("error", () => {})
      .once("close", () => {
        closed += 1;
      });
    socket.write("GET /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n");
    await once(socket, "data");
    refused.push(socket);
  }
  // Who writes to a connection that is gone finds out.
  for (const socket of refused.slice(0, 100)) socket.write("x");
  const end = performance.now() + 3_000;
  while (closed < 100 && performance.now() < end) await Bun.sleep(10);
  expect(closed).toBeGreaterThanOrEqual(100);
  for (const socket of refused) socket.destroy();
});

test("a connection that says nothing is closed; one with a session stays", async () => {
  for (const tls of [undefined, tlsOf("one")]) {
    await using it = await startStreaming({ requestTimeoutMs: 2_000, tls });
    const url = it.url("exec", { stdin: true });
    const { hostname, port, pathname } = new URL(url);
    const at = { host: hostname, port: Number(port) };
    const silent = connect(at).resume();
    const session = tls ? connectTls({ ...at, ca: pem("ca.crt") }) : connect(at);
    session.write(
      `GET ${pathname} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n`,
    );
    session.write(`X-Stream-Protocol-Version: ${V4[0]}\r\n\r\n`);
    await Promise.all([once(session, "data"), once(silent, "close")]);
    await Bun.sleep(500);
    expect(it.server.sessions()).toHaveLength(1);
    session.destroy();
  }
});

test("with a client CA, clients need a certificate of it", async () => {
  const ca = pem("ca.crt");
  await using it = await startStreaming({ tls: tlsOf("one", ca) });
  const good = await overTls(it.url("exec", { stdin: true }), { ca, ...tlsOf("two") });
  expect(good.line).toBe("HTTP/1.1 101 Switching Protocols");
  for (const client of [{}, tlsOf("stranger")]) {
    const refused = overTls(it.url("exec", { stdin: true }), { ca, ...client });
    expect(await refused.catch(() => ({ line: "closed" }))).toMatchObject({ line: "closed" });
  }
});
