import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { PassThrough, Readable } from "node:stream";
import type { CommandRequest } from "../../src/streaming/channels.ts";
import { acceptKey } from "../../src/streaming/websocket-upgrade.ts";
import { type FakeProcess, startStreaming, type TestServer } from "../fixtures/streaming.ts";
import { clientFrame, describe as inOneLine, RawWebSocket } from "../fixtures/websocket.ts";

type Streams = Partial<Pick<CommandRequest, "tty" | "stdin" | "stdout" | "stderr">>;

let it: TestServer;
const clients: RawWebSocket[] = [];

beforeEach(async () => {
  it = await startStreaming();
});

afterEach(async () => {
  for (const { socket } of clients.splice(0)) socket.destroy();
  await it[Symbol.asyncDispose]();
});

/** Asks for an exec with these streams. */
async function exec(protocol: string, streams: Streams = { stdout: true }): Promise<RawWebSocket> {
  return ask(it.url("exec", streams), { "Sec-WebSocket-Protocol": protocol });
}

async function ask(url: string, headers: Record<string, string>): Promise<RawWebSocket> {
  const client = await RawWebSocket.connect(url, headers);
  clients.push(client);
  return client;
}

const upgradeWith = async (headers: Record<string, string>) =>
  (await ask(it.url("exec", { stdout: true }), headers)).answer;

const SUCCESS = 'binary \x03{"metadata":{},"status":"Success"}';

describe("the upgrade", () => {
  test("the key of RFC 6455 is answered as there", async () => {
    expect(acceptKey("dGhlIHNhbXBsZSBub25jZQ==")).toBe("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    const answer = await upgradeWith({ "Sec-WebSocket-Protocol": "v4.channel.k8s.io" });
    expect(answer).toMatchObject({
      status: 101,
      headers: {
        upgrade: "websocket",
        connection: "Upgrade",
        "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "sec-websocket-protocol": "v4.channel.k8s.io",
      },
    });
  });

  test("the first protocol of the client that is known is chosen", async () => {
    const offered = "v9.channel.k8s.io, v4.base64.channel.k8s.io,v5.channel.k8s.io";
    const { headers } = await upgradeWith({ "Sec-WebSocket-Protocol": offered });
    expect(headers["sec-websocket-protocol"]).toBe("v4.base64.channel.k8s.io");
  });

  test("a client that names no protocol speaks the oldest one", async () => {
    const { status, headers } = await upgradeWith({});
    expect(status).toBe(101);
    expect(headers["sec-websocket-protocol"]).toBeUndefined();
  });

  test.each<[string, Record<string, string>, number, string]>([
    [
      "another version",
      { "Sec-WebSocket-Version": "8" },
      426,
      'Sec-WebSocket-Version is "8", not 13\n',
    ],
    [
      "a short key",
      { "Sec-WebSocket-Key": "AAAA" },
      400,
      "Sec-WebSocket-Key is not 16 bytes in base64\n",
    ],
    ["an empty protocol", { "Sec-WebSocket-Protocol": "," }, 403, 'Sec-WebSocket-Protocol: ",": '],
    [
      "the protocol of port-forwarding",
      { "Sec-WebSocket-Protocol": "SPDY/3.1+portforward.k8s.io" },
      403,
      'Sec-WebSocket-Protocol: "SPDY/3.1+portforward.k8s.io": known are v5.channel.k8s.io, ',
    ],
  ])("%s is refused, and the reason told", async (_what, headers, status, body) => {
    const answer = await upgradeWith(headers);
    expect(answer.status).toBe(status);
    expect(answer.body).toStartWith(body);
  });
});

describe("exec", () => {
  test("output, then the status, then a normal close", async () => {
    const client = await exec("v5.channel.k8s.io", { stdout: true, stderr: true });
    const process = await it.backend.process();
    process.stdout.write("out");
    process.stderr.write("err");
    process.exit(0);
    const frames = await client.rest();
    expect(frames[0]).toBe("binary \x01");
    expect(frames.slice(1, 3).sort()).toEqual(["binary \x01out", "binary \x02err"]);
    expect(frames.slice(3)).toEqual([SUCCESS, "close 1000"]);
    expect(process.closed).toBe(true);
  });

  test("the greeting goes to the lowest channel that the client reads", async () => {
    for (const [streams, greeting] of [
      [{ stdin: true, stdout: true, stderr: true }, "binary \x01"],
      [{ stdin: true, stderr: true }, "binary \x02"],
      [{ stdin: true }, "binary \x03"],
    ] as const) {
      const client = await exec("v4.channel.k8s.io", streams);
      const frame = await client.next();
      expect(frame && inOneLine(frame)).toBe(greeting);
    }
  });

  test.each([
    [
      "v5.channel.k8s.io",
      'binary \x03{"metadata":{},"status":"Failure","reason":"NonZeroExitCode",' +
        '"message":"command terminated with non-zero exit code: 3",' +
        '"details":{"causes":[{"reason":"ExitCode","message":"3"}]}}',
    ],
    ["channel.k8s.io", "binary \x03command terminated with non-zero exit code: 3"],
  ])("%s tells an exit code in its own way", async (protocol, status) => {
    const client = await exec(protocol);
    const process = await it.backend.process();
    process.exit(3);
    expect(await client.rest()).toEqual(["binary \x01", status, "close 1000"]);
  });

  test("the oldest protocol says nothing of a success", async () => {
    const client = await exec("channel.k8s.io");
    const process = await it.backend.process();
    process.exit(0);
    expect(await client.rest()).toEqual(["binary \x01", "close 1000"]);
  });

  test("base64: messages are text, channels digits", async () => {
    const client = await exec("v4.base64.channel.k8s.io", { stdin: true, stdout: true });
    client.send("text", `0${Buffer.from("in").toString("base64")}`);
    const process = await it.backend.process();
    expect(await read(process.stdin, 2)).toBe("in");
    process.stdout.write("\x00out");
    process.exit(0);
    const status = Buffer.from('{"metadata":{},"status":"Success"}').toString("base64");
    expect(await client.rest()).toEqual([
      "text 1",
      `text 1${Buffer.from("\x00out").toString("base64")}`,
      `text 3${status}`,
      "close 1000",
    ]);
  });

  test("base64 that comes in fragments is one text", async () => {
    const client = await exec("base64.channel.k8s.io", { stdin: true });
    const process = await it.backend.process();
    const text = `0${Buffer.from("fragments").toString("base64")}`;
    for (const [index, character] of [...text].entries()) {
      const last = index === text.length - 1;
      const opcode = index === 0 ? "text" : "continuation";
      client.socket.write(clientFrame({ opcode, payload: character, fin: last }));
    }
    expect(await read(process.stdin, 9)).toBe("fragments");
  });

  test.each(["0a", "0====", "0YQ==YQ==", "0*AAA"])("%s is no base64: 1007", async (payload) => {
    const client = await exec("base64.channel.k8s.io", { stdin: true });
    client.send("text", payload);
    expect((await client.rest()).at(-1)).toStartWith("close 1007 a message on channel 0");
  });

  test("text messages are input like binary ones", async () => {
    const client = await exec("v4.channel.k8s.io", { stdin: true });
    const process = await it.backend.process();
    client.send("text", "\x00ls\n");
    client.send("binary", "\x00-l\n");
    expect(await read(process.stdin, 6)).toBe("ls\n-l\n");
  });

  test("version 5 half-closes the input; output goes on", async () => {
    const client = await exec("v5.channel.k8s.io", { stdin: true, stdout: true });
    client.send("binary", "\x00last words");
    client.send("binary", "\xff\x00");
    client.send("binary", "\x00after the end");
    const process = await it.backend.process();
    expect(await all(process.stdin)).toBe("last words");
    process.stdout.write("still here");
    process.exit(0);
    expect(await client.rest()).toEqual([
      "binary \x01",
      "binary \x01still here",
      SUCCESS,
      "close 1000",
    ]);
  });

  test("earlier versions know no half-close, and drop it", async () => {
    const client = await exec("v4.channel.k8s.io", { stdin: true });
    const process = await it.backend.process();
    client.send("binary", "\xff\x00");
    client.send("binary", "\x00more");
    expect(await read(process.stdin, 4)).toBe("more");
  });

  test.each(["\xff", "\xff\x05", "\xff\x00\x00"])("a bad half-close: 1002", async (payload) => {
    const client = await exec("v5.channel.k8s.io", { stdin: true });
    client.send("binary", payload);
    expect((await client.rest()).at(-1)).toStartWith("close 1002 a half-close of ");
  });

  test("messages for channels that are not open are dropped", async () => {
    const client = await exec("v5.channel.k8s.io", { stdin: true, stdout: true });
    const process = await it.backend.process();
    for (const channel of ["\x01", "\x02", "\x03", "\x04", "\x05", "\xfe"]) {
      client.send("binary", `${channel}${"x".repeat(300_000)}`);
    }
    client.send("binary", "");
    client.send("binary", "\x00input");
    expect(await read(process.stdin, 5)).toBe("input");
  });

  test("the last size of a terminal is told when there is a process", async () => {
    const client = await exec("v5.channel.k8s.io", { tty: true, stdout: true });
    client.send("binary", '\x04{"Width":80,"Height":24}');
    client.send("binary", '\x04{"Width":100,');
    client.send("binary", '\x04"Height":30}');
    client.send("ping", "");
    await client.next();
    const process = await it.backend.process();
    const pong = await client.next();
    expect(pong?.opcode).toBe("pong");
    client.send("binary", '\x04{"Width":120,"Height":40}');
    while (process.sizes.length === 0 || process.sizes.at(-1)?.columns !== 120) await Bun.sleep(1);
    expect(process.sizes.at(-1)).toEqual({ columns: 120, rows: 40 });
  });
});

describe("bad input", () => {
  test.each([
    ["a frame without a mask", Buffer.from("820100", "hex"), 1002],
    ["an unknown type", Buffer.from("8380", "hex"), 1002],
    ["a frame of 33 MB", Buffer.from("82ff0000000002000001", "hex"), 1009],
    ["a text that is not UTF-8", clientFrame({ opcode: "text", payload: "\x00\xff" }), 1007],
  ])("%s closes the connection, and the process is let go", async (_what, bytes, code) => {
    const client = await exec("v4.channel.k8s.io", { stdin: true });
    const process = await it.backend.process();
    client.socket.write(bytes);
    client.socket.write(Buffer.alloc(100_000, 7));
    const frames = await client.rest();
    expect(frames.at(-1)).toStartWith(`close ${code} `);
    await gone(process);
  });

  test("a client that says farewell in the middle gets its answer", async () => {
    const client = await exec("v4.channel.k8s.io", { stdin: true, stdout: true });
    const process = await it.backend.process();
    client.send("binary", "\x00half");
    client.send("close", "\x03\xe9");
    expect((await client.rest()).at(-1)).toBe("close 1001");
    await gone(process);
  });

  test.each(["end", "resetAndDestroy"] as const)(
    "a client that is gone (%s) is noticed",
    async (how) => {
      const client = await exec("v4.channel.k8s.io", { stdin: true, stdout: true });
      const process = await it.backend.process();
      client.socket[how]();
      await gone(process);
    },
  );
});

describe("flow", () => {
  test("pings are answered, between fragments too", async () => {
    const client = await exec("v4.channel.k8s.io", { stdin: true });
    const process = await it.backend.process();
    await client.next();
    client.socket.write(clientFrame({ opcode: "binary", payload: "\x00a", fin: false }));
    client.send("ping", "one");
    client.socket.write(clientFrame({ opcode: "continuation", payload: "b" }));
    const pong = await client.next();
    expect(pong && inOneLine(pong)).toBe("pong one");
    expect(await read(process.stdin, 2)).toBe("ab");
  });

  test("a client that does not read stops the output, and then gets all of it", async () => {
    const client = await exec("v4.channel.k8s.io");
    const process = await it.backend.process();
    const totalBytes = 64 << 20;
    const sent = produce(process.stdout, totalBytes);
    const stoppedAt = await standstill(() => sent.bytes);
    expect(stoppedAt).toBeLessThan(totalBytes / 2);
    let received = 0;
    while (received < totalBytes) {
      const frame = await client.next();
      if (frame === undefined) break;
      received += frame.payload.length - 1;
    }
    expect(received).toBe(totalBytes);
  }, 30_000);

  test("a process that does not read stops the client, and then gets all of it", async () => {
    const client = await exec("v4.channel.k8s.io", { stdin: true, stdout: true });
    const totalBytes = 64 << 20;
    const payload = Buffer.alloc(32 << 10);
    const message = clientFrame({ opcode: "binary", payload });
    const count = Math.ceil(totalBytes / (payload.length - 1));
    let written = 0;
    void (async () => {
      for (; written < count; written += 1) {
        if (!client.socket.write(message)) {
          await new Promise((resolve) => client.socket.once("drain", resolve));
        }
      }
    })();
    const process = await it.backend.process();
    expect(await standstill(() => written)).toBeLessThan(count / 2);
    // It is served all the same.
    process.stdout.write("out");
    await client.next();
    const out = await client.next();
    expect(out && inOneLine(out)).toBe("binary \x01out");
    let received = 0;
    process.stdin.on("data", (chunk: Buffer) => {
      received += chunk.length;
    });
    while (received < count * (payload.length - 1)) await Bun.sleep(5);
    expect(written).toBe(count);
  }, 30_000);

  test("of the pings of a client that does not read, the last is answered", async () => {
    const client = await exec("v4.channel.k8s.io");
    const process = await it.backend.process();
    produce(process.stdout, 64 << 20);
    const count = 100_000;
    const pings = Array.from({ length: count }, (_, index) =>
      clientFrame({ opcode: "ping", payload: String(index) }),
    );
    await new Promise((resolve) => client.socket.write(Buffer.concat(pings), resolve));
    const pongs: string[] = [];
    while (pongs.at(-1) !== String(count - 1)) {
      const frame = await client.next();
      if (frame === undefined) break;
      if (frame.opcode === "pong") pongs.push(frame.payload.toString());
    }
    expect(pongs.at(-1)).toBe(String(count - 1));
    expect(pongs.length).toBeLessThan(count);
  }, 30_000);

  test("a connection on which nothing happens is closed", async () => {
    await it[Symbol.asyncDispose]();
    it = await startStreaming({ idleTimeoutMs: 100 });
    const client = await exec("v4.channel.k8s.io");
    const process = await it.backend.process();
    expect(await client.rest()).toEqual(["binary \x01", "close 1001 idle"]);
    await gone(process);
  });

  test("a client that reads nothing for as long is cut off", async () => {
    await it[Symbol.asyncDispose]();
    it = await startStreaming({ idleTimeoutMs: 100 });
    await exec("v4.channel.k8s.io");
    const process = await it.backend.process();
    produce(process.stdout, 64 << 20);
    await gone(process);
  });
});

/** Waits until the server has let the process go. */
async function gone(process: FakeProcess): Promise<void> {
  await process.whenClosed;
  while (it.server.sessions().length > 0) await Bun.sleep(1);
}

async function read(stream: Readable, length: number): Promise<string> {
  let text = "";
  for await (const chunk of stream.iterator({ destroyOnReturn: false })) {
    text += chunk.toString("latin1");
    if (text.length >= length) break;
  }
  return text;
}

async function all(stream: Readable): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks).toString("latin1");
}

/** Writes so many bytes as fast as they are taken; `bytes` counts them. */
function produce(to: PassThrough, totalBytes: number): { bytes: number } {
  const sent = { bytes: 0 };
  const chunk = Buffer.alloc(64 << 10);
  const go = () => {
    while (sent.bytes < totalBytes) {
      sent.bytes += chunk.length;
      if (!to.write(chunk)) {
        to.once("drain", go);
        return;
      }
    }
  };
  go();
  return sent;
}

/** Waits until a count has not changed for a while; the count. */
async function standstill(count: () => number): Promise<number> {
  let last = -1;
  let since = performance.now();
  while (performance.now() - since < 500) {
    if (count() !== last) {
      last = count();
      since = performance.now();
    }
    await Bun.sleep(10);
  }
  return last;
}
