import { afterAll, beforeAll, test as declare, expect } from "bun:test";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { copyFileSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { type ConnectionOptions, connect as connectTls } from "node:tls";
import { makeCa, makeCertificate } from "../fixtures/certificates.ts";
import { Crictl } from "../fixtures/crictl.ts";
import {
  type MadeContainer,
  type MadePod,
  refusal,
  startNode,
  type TestNode,
} from "../fixtures/pods.ts";
import {
  controlFrame,
  dataFrame,
  HeaderWriter,
  SpdyClient,
  synStream,
  u32,
} from "../fixtures/spdy-client.ts";
import { feed, flood, haveClients } from "../fixtures/streaming-clients.ts";
import { until } from "../fixtures/until.ts";
import { RawWebSocket } from "../fixtures/websocket.ts";

const test = declare.skipIf(!haveClients);
const MB = 1024 * 1024;
let node: TestNode;
let crictl: Crictl;
let pod: MadePod;
let container: MadeContainer;

beforeAll(async () => {
  if (!haveClients) return;
  node = await startNode();
  crictl = new Crictl(node);
  pod = await node.pod();
  container = await node.run(pod);
}, 240_000);

afterAll(async () => {
  if (haveClients) await node.stop();
}, 60_000);

const exec = (...cmd: string[]) => crictl.run(["exec", container.id, ...cmd]);

/** Resident memory of the daemon, in bytes. */
function rss(): number {
  const status = readFileSync(`/proc/${node.crib.pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) * 1024;
}

function cribStatus(): { sessions: Array<{ kind: string; object: string }> } {
  const program = join(import.meta.dir, "../../dist/crib");
  const child = Bun.spawnSync([program, "status", "--json", "--socket", node.crib.socket]);
  return JSON.parse(child.stdout.toString());
}

test("exec: both outputs and the exit code", async () => {
  expect(await exec("sh", "-c", "echo out; echo err >&2")).toEqual({
    stdout: "out\n",
    stderr: "err\n",
    exitCode: 0,
  });
  const failed = await exec("sh", "-c", "echo out; exit 3");
  expect(failed.stdout).toBe("out\n");
  expect(failed.stderr).toContain("command terminated with exit code 3");
  expect(failed.exitCode).not.toBe(0);
});

test("exec: a program that is not there is an error that names it", async () => {
  const { stderr, exitCode } = await exec("/no/such/program");
  expect(stderr).toContain("/no/such/program");
  expect(exitCode).not.toBe(0);
});

test("exec -i: input, its end, and much of both", async () => {
  const input = "0123456789abcdef".repeat(2 * MB);
  const { stdout, exitCode } = await crictl.run(["exec", "-i", container.id, "cat"], input);
  expect(exitCode).toBe(0);
  const hash = (text: string) => createHash("sha256").update(text).digest("hex");
  expect(hash(stdout)).toBe(hash(input));
}, 60_000);

test("exec -i: a command that ends before its input does", async () => {
  const child = crictl.start("exec", "-i", container.id, "echo", "done");
  expect(await new Response(child.stdout).text()).toBe("done\n");
  void child.stdin.end();
  expect(await child.exited).toBe(0);
});

test("exec -it: a terminal of the client's size, also when that changes, and the exit code", async () => {
  let output = "";
  // The size comes when the client has connected: the command may be earlier.
  const sized = (size: string) =>
    `until [ "$(stty size 2>/dev/null)" = "${size}" ]; do sleep 0.05; done`;
  const script = `${sized("33 111")}; echo first; ${sized("20 90")}; echo second
    read line; echo got $line; exit 7`;
  const child = Bun.spawn(crictl.command("exec", "-it", container.id, "sh", "-c", script), {
    terminal: {
      cols: 111,
      rows: 33,
      data: (_, chunk) => {
        output += Buffer.from(chunk).toString();
      },
    },
  });
  await until("the first size", () => output.includes("first"));
  child.terminal?.resize(90, 20);
  await until("the second size", () => output.includes("second"));
  child.terminal?.write("hello\r");
  await child.exited;
  expect(output).toContain("got hello");
  expect(output).toContain("exit code 7");
  child.terminal?.close();
}, 60_000);

test("attach: input reaches the container, several clients see its output", async () => {
  const script = 'while read line; do echo "got $line"; [ "$line" = end ] && exit 5; done';
  const target = await node.run(pod, { command: ["sh", "-c", script], stdin: true });
  const watcher = crictl.start("attach", target.id);
  const writer = crictl.start("attach", "-i", target.id);
  await until(
    "both",
    () => cribStatus().sessions.filter((it) => it.kind === "attach").length === 2,
  );
  await feed(writer, "one\n");
  await until("the log", () => target.log().length > 0);
  await feed(writer, "end\n");
  for (const client of [watcher, writer]) {
    expect(await new Response(client.stdout).text()).toBe("got one\ngot end\n");
    expect(await client.exited).toBe(0);
  }
  expect((await node.exited(target)).exitCode).toBe(5);
}, 30_000);

/** crictl port-forward to a port of the pod, when it listens. */
async function forwardTo(podId: string, port: string) {
  const child = crictl.start("port-forward", podId, `:${port}`);
  const reader = child.stdout.getReader();
  let text = "";
  while (!/127\.0\.0\.1:\d+ ->/.test(text)) {
    const { value, done } = await reader.read();
    if (done)
      throw new Error(`crictl port-forward ended: ${await new Response(child.stderr).text()}`);
    text += Buffer.from(value).toString();
  }
  // It prints a line for each connection.
  void (async () => {
    while (!(await reader.read()).done);
  })();
  const local = Number(/127\.0\.0\.1:(\d+) ->/.exec(text)?.[1]);
  return { child, local };
}

async function fetchAll(port: number, question = ""): Promise<string> {
  const socket = connect({ port, host: "127.0.0.1" });
  socket.write(question);
  let text = "";
  socket.on("data", (chunk) => {
    text += chunk.toString();
  });
  socket.on("error", () => {});
  await once(socket, "close");
  return text;
}

/**
 * Listens in the pod's network namespace: 20,000 bytes on 8080; 8081 resets who says anything; 8082 has no
 * end.
 */
async function serveInPod({ id } = pod): Promise<AsyncDisposable> {
  const { info } = await node.runtime.podSandboxStatus({ podSandboxId: id, verbose: true });
  const { namespaces } = JSON.parse(info.info ?? "{}");
  const script = `const { createServer } = require("node:net");
    createServer((it) => it.on("error", () => {}).end("x".repeat(20000))).listen(8080, "127.0.0.1");
    const zeros = Buffer.alloc(65536);
    const flood = (it) => { while (!it.destroyed && it.write(zeros)); };
    createServer((it) => { it.on("error", () => {}).on("drain", () => flood(it)); flood(it); })
      .listen(8082, "127.0.0.1");
    createServer((it) => it.on("error", () => {}).once("data", () => it.resetAndDestroy()))
      .listen(8081, "::1", () => console.log("up"));`;
  const child = Bun.spawn(["nsenter", `--net=${namespaces.net}`, process.execPath, "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await child.stdout.getReader().read();
  return {
    async [Symbol.asyncDispose]() {
      child.kill();
      await child.exited;
    },
  };
}

test("port-forward: hundreds of connections by IPv4, and by IPv6 some that are reset", async () => {
  await using _ = await serveInPod();
  const { child, local } = await forwardTo(pod.id, "8080");
  const other = await forwardTo(pod.id, "8081");
  for (let round = 0; round < 6; round += 1) {
    const texts = await Promise.all([
      ...Array.from({ length: 50 }, () => fetchAll(local)),
      fetchAll(other.local, "reset me"),
    ]);
    expect(texts.pop()).toBe("");
    expect(texts.every((text) => text === "x".repeat(20_000))).toBe(true);
  }
  expect(cribStatus().sessions).toMatchObject([
    { kind: "portforward", object: pod.id },
    { kind: "portforward", object: pod.id },
  ]);
  for (const client of [child, other.child]) client.kill();
  await until("no session", () => cribStatus().sessions.length === 0);
}, 60_000);

/** Says "x" to the port that resets whoever does; what the client learns of its data stream. */
const resets = {
  SPDY: async (url: string) => {
    const client = await SpdyClient.open(url, ["portforward.k8s.io"]);
    const common = { port: "8081", requestid: "1" };
    const error = await client.stream({ streamtype: "error", ...common });
    const data = await client.stream({ streamtype: "data", ...common });
    client.send(dataFrame(data, "x"));
    await client.until("an end", () => client.isFinished(error));
    await client.until("its end", () => client.isReset(data) || client.isFinished(data));
    client.socket.destroy();
    // A text would make kubectl give up its other connections.
    expect(client.text(error)).toBe("");
    return client.isReset(data) ? "reset" : "ended";
  },
  "SPDY in a WebSocket": async (url: string) => {
    const headers = { "Sec-WebSocket-Protocol": "SPDY/3.1+portforward.k8s.io" };
    const client = await RawWebSocket.connect(url, headers);
    const writer = new HeaderWriter();
    const open = (id: number, streamtype: string) =>
      synStream(id, writer.write({ streamtype, port: "8081", requestid: "1" }));
    client.send("binary", Buffer.concat([open(1, "error"), open(3, "data"), dataFrame(3, "x")]));
    const [reset, ended] = [controlFrame(3, 0, u32(3), u32(5)), dataFrame(3, "", true)];
    let bytes = Buffer.alloc(0);
    while (!bytes.includes(reset) && !bytes.includes(ended)) {
      const frame = await client.next();
      if (frame === undefined) throw new Error("the tunnel has ended");
      bytes = Buffer.concat([bytes, frame.payload]);
    }
    client.socket.destroy();
    return bytes.includes(reset) ? "reset" : "ended";
  },
  "WebSocket channels": async (url: string) => {
    const headers = { "Sec-WebSocket-Protocol": "v4.channel.k8s.io" };
    const client = await RawWebSocket.connect(url, headers);
    client.send("binary", "\x00x");
    const frames = (await client.rest()).join("\n");
    const error = `\x01error forwarding port 8081 of pod ${pod.id}: connection reset by peer`;
    return frames.includes(error) ? "reset" : frames;
  },
};

test.each(Object.entries(resets))(
  "port-forward over %s: a reset by the port reaches the client as one",
  async (_, sayAndListen) => {
    await using _ports = await serveInPod();
    const { url } = await node.runtime.portForward({ podSandboxId: pod.id, port: [8081] });
    expect(await sayAndListen(url)).toBe("reset");
    await until("no session", () => cribStatus().sessions.length === 0);
  },
);

test("port-forward: a port nobody listens on is told to the client", async () => {
  const refused = await forwardTo(pod.id, "81");
  await fetchAll(refused.local);
  refused.child.kill();
  expect(await new Response(refused.child.stderr).text()).toContain("cannot forward port 81");
});

/**
 * Far below what is said to those who do not read, 100 MB or more. When memory is collected differs by
 * some 20 MB from run to run: the figures themselves are the streaming benchmark's.
 */
const BOUNDED = 50 * MB;

/** How much memory the daemon needs more at most while `body` runs, in bytes. */
async function growth(body: () => Promise<void>): Promise<number> {
  const before = rss();
  let most = before;
  const timer = setInterval(() => {
    most = Math.max(most, rss());
  }, 10);
  try {
    await body();
  } finally {
    clearInterval(timer);
  }
  return most - before;
}

const FLOOD = ["dd", "if=/dev/zero", "bs=65536", "count=50000"];

/** Clients that ask for 3 GB and read none of it. */
const stalledClients = {
  "exec over SPDY": async (id: string) => {
    const { url } = await node.runtime.exec({ containerId: id, cmd: FLOOD, stdout: true });
    const client = await SpdyClient.open(url, ["v4.channel.k8s.io"]);
    await client.stream({ streamtype: "error" });
    await client.stream({ streamtype: "stdout" });
    return client.socket;
  },
  "exec over WebSocket": async (id: string) => {
    const { url } = await node.runtime.exec({ containerId: id, cmd: FLOOD, stdout: true });
    const headers = { "Sec-WebSocket-Protocol": "v4.channel.k8s.io" };
    return (await RawWebSocket.connect(url, headers)).socket;
  },
  "200 forwarded connections": async () => {
    const { url } = await node.runtime.portForward({ podSandboxId: pod.id });
    const client = await SpdyClient.open(url, ["portforward.k8s.io"]);
    client.socket.pause();
    const open = (id: number, streamtype: string) => {
      const headers = { streamtype, port: "8082", requestid: String(id >> 2) };
      return synStream(id, client.writer.write(headers));
    };
    for (let id = 1; id < 800; id += 4) client.send(open(id, "error"), open(id + 2, "data"));
    return client.socket;
  },
};

test.each(Object.entries(stalledClients))(
  "%s: a client that does not read: the daemon's memory stays, StopContainer and others go on",
  async (_, connectStalled) => {
    await using _ports = await serveInPod();
    const target = await node.run(pod, { command: ["sh", "-c", "while :; do sleep 1; done"] });
    // What the daemon loads for a client, and needs for one that reads, is not a stalled one's.
    await exec("dd", "if=/dev/zero", "bs=65536", "count=1000");
    const grown = await growth(async () => {
      const socket = await connectStalled(target.id);
      socket.pause();
      await Bun.sleep(1_000);
      expect((await exec("echo", "others")).stdout).toBe("others\n");
      await node.runtime.stopContainer({ containerId: target.id, timeout: 1n });
      socket.destroy();
      await until("no session", () => cribStatus().sessions.length === 0);
    });
    expect(grown).toBeLessThan(BOUNDED);
  },
  60_000,
);

test("StopPodSandbox does not wait for forwarded connections, whether they are read or not", async () => {
  const stopped = await node.pod();
  await using _stopped = await serveInPod(stopped);
  const { url } = await node.runtime.portForward({ podSandboxId: stopped.id });
  const client = await SpdyClient.open(url, ["portforward.k8s.io"]);
  const open = async (port: string, requestid: string) => {
    const error = await client.stream({ streamtype: "error", port, requestid });
    client.send(dataFrame(error, "", true));
    return client.stream({ streamtype: "data", port, requestid });
  };
  const quiet = await open("8081", "1");
  const done = await open("8080", "2");
  await client.until("a connection", () => client.isFinished(done));
  await open("8082", "3");
  client.socket.pause();
  await Bun.sleep(500);
  await node.runtime.stopPodSandbox({ podSandboxId: stopped.id });
  client.socket.resume();
  await client.until("its end", () => client.isFinished(quiet) || client.isReset(quiet));
  client.socket.destroy();
  await node.runtime.removePodSandbox({ podSandboxId: stopped.id });
  await until("no session", () => cribStatus().sessions.length === 0);
}, 60_000);

/** A client that sends 100 MB to a process that reads nothing, and then says how it ended. */
async function sendToDeafProcess(): Promise<string> {
  const child = crictl.start("exec", "-i", container.id, "sh", "-c", "sleep 1; exit 4");
  const [stderr] = await Promise.all([new Response(child.stderr).text(), flood(child, 100)]);
  return stderr;
}

test("a process that does not read: the daemon's memory stays, and its exit is told", async () => {
  await crictl.run(["exec", "-i", container.id, "sh", "-c", "cat >/dev/null"], "x".repeat(16 * MB));
  const grown = await growth(async () => {
    expect(await sendToDeafProcess()).toContain("exit code 4");
  });
  expect(grown).toBeLessThan(BOUNDED);
  await until("no session", () => cribStatus().sessions.length === 0);
}, 60_000);

test("a client that vanishes: its session ends, its process reads the end of its input", async () => {
  const mark = "/tmp/ended";
  await node.sh(container, `mkdir -p /tmp; rm -f ${mark}`);
  const child = crictl.start("exec", "-i", container.id, "sh", "-c", `cat; touch ${mark}`);
  await until("the session", () => cribStatus().sessions.length === 1);
  child.kill("SIGKILL");
  await until("no session", () => cribStatus().sessions.length === 0);
  await until("the end", async () => (await node.sh(container, `ls /tmp`)).includes("ended"));
});

test("a client that vanishes while its process does not read is noticed as well", async () => {
  const child = crictl.start("exec", "-i", container.id, "sleep", "1000");
  const sent = flood(child, 100);
  await until("the session", () => cribStatus().sessions.length === 1);
  await Promise.race([sent, Bun.sleep(1000)]);
  child.kill("SIGKILL");
  await sent;
  await until("no session", () => cribStatus().sessions.length === 0, 60_000);
}, 90_000);

test("requests that cannot be served are refused before there is a URL", async () => {
  const { runtime } = node;
  const all = { tty: false, stdin: false, stdout: true, stderr: false };
  const id = container.id;
  const stopped = await node.create(pod);
  const cases: Array<[Promise<unknown>, string, string]> = [
    [runtime.exec({ ...all, cmd: ["x"] }), "InvalidArgument", "container_id"],
    [runtime.exec({ ...all, containerId: "none", cmd: ["x"] }), "NotFound", "none"],
    [
      runtime.exec({ ...all, containerId: stopped.id, cmd: ["x"] }),
      "FailedPrecondition",
      "created",
    ],
    [runtime.exec({ ...all, containerId: id }), "InvalidArgument", "cmd"],
    [
      runtime.exec({ ...all, containerId: id, cmd: ["x"], stdout: false }),
      "InvalidArgument",
      "stdin",
    ],
    [
      runtime.exec({ ...all, containerId: id, cmd: ["x"], tty: true, stderr: true }),
      "InvalidArgument",
      "tty",
    ],
    [runtime.attach(all), "InvalidArgument", "container_id"],
    [runtime.attach({ ...all, containerId: id, stdout: false }), "InvalidArgument", "stdin"],
    [
      runtime.attach({ ...all, containerId: id, tty: true, stderr: true }),
      "InvalidArgument",
      "tty",
    ],
    [runtime.portForward({}), "InvalidArgument", "pod_sandbox_id"],
    [runtime.portForward({ podSandboxId: "none" }), "NotFound", "none"],
    [runtime.portForward({ podSandboxId: pod.id, port: [80, 0] }), "InvalidArgument", "port: 0"],
  ];
  for (const [call, code, text] of cases) {
    const error = await refusal(call);
    expect(error.code).toBe(code);
    expect(error.message).toContain(text);
  }
});

test("an attach without stdin in the container, and a container that is gone, are told to the client", async () => {
  const attach = await crictl.run(["attach", "-i", container.id]);
  expect(attach.stderr).toContain("stdin");
  const doomed = await node.run(pod);
  const { url } = await node.runtime.exec({ containerId: doomed.id, cmd: ["true"], stdout: true });
  await node.runtime.stopContainer({ containerId: doomed.id });
  const client = await SpdyClient.open(url, ["v4.channel.k8s.io"]);
  const error = await client.stream({ streamtype: "error" });
  await client.stream({ streamtype: "stdout" });
  await client.until("the end", () => client.ended);
  expect(client.text(error)).toContain("is exited, not running");
  client.socket.destroy();
});

/** Whose certificate the server shows to this client, and whether it takes the client's. */
async function handshake(options: ConnectionOptions): Promise<string> {
  const { url } = await node.runtime.exec({
    containerId: container.id,
    cmd: ["true"],
    stdout: true,
  });
  const { hostname, port, pathname } = new URL(url);
  const socket = connectTls({ host: hostname, port: Number(port), ...options });
  let line = "closed";
  socket.on("error", () => {});
  socket.once("data", (chunk) => {
    line = chunk.toString().split("\r\n")[0] ?? "";
    socket.end();
  });
  socket.write(`GET ${pathname} HTTP/1.1\r\nHost: x\r\n\r\n`);
  let name: unknown;
  socket.once("secureConnect", () => {
    name = socket.getPeerCertificate().subject?.CN;
  });
  await new Promise((resolve) => socket.once("close", resolve));
  return line === "closed" ? line : `${line}, ${name}`;
}

test("over TLS with client certificates, renewed while the daemon runs", async () => {
  const path = (name: string) => join(node.directory, name);
  const pem = (name: string) => readFileSync(path(name), "utf8");
  for (const ca of ["ca", "other-ca"]) makeCa(node.directory, ca);
  for (const name of ["server", "client", "next"]) makeCertificate(node.directory, name, "ca");
  makeCertificate(node.directory, "other-client", "other-ca");
  copyFileSync(path("ca.crt"), path("clients.crt"));
  await node.restart({
    "streaming.tls_cert_file": path("server.crt"),
    "streaming.tls_key_file": path("server.key"),
    "streaming.tls_client_ca_file": path("clients.crt"),
  });
  const as = (name: string) => ({
    ca: pem("ca.crt"),
    cert: pem(`${name}.crt`),
    key: pem(`${name}.key`),
  });
  const withTls = (name = "client") => {
    const flags = ["--tls-ca", path("ca.crt"), "--tls-cert", path(`${name}.crt`)];
    const tls = [...flags, "--tls-key", path(`${name}.key`), "--tls-sni", "127.0.0.1"];
    return crictl.run(["exec", ...tls, container.id, "echo", "hi"]);
  };
  const withoutIsRefused = async () => {
    const without = await exec("echo", "hi");
    expect(without.stdout).toBe("");
    expect(without.exitCode).not.toBe(0);
    expect(await handshake({ ca: pem("ca.crt") })).toBe("closed");
  };
  const good = (name: string) => `HTTP/1.1 400 Bad Request, ${name}`;
  expect((await withTls()).stdout).toBe("hi\n");
  expect(await handshake(as("client"))).toBe(good("server"));
  await withoutIsRefused();
  for (const kind of ["crt", "key"]) copyFileSync(path(`next.${kind}`), path(`server.${kind}`));
  expect((await withTls()).stdout).toBe("hi\n");
  expect(node.crib.log()).toContain("certificates renewed");
  expect(await handshake(as("client"))).toBe(good("next"));
  await withoutIsRefused();
  copyFileSync(path("client.key"), path("server.key"));
  expect((await withTls()).stdout).toBe("hi\n");
  expect(node.crib.log()).toContain("the key is not the certificate's");
  expect(await handshake(as("client"))).toBe(good("next"));
  await withoutIsRefused();
  copyFileSync(path("next.key"), path("server.key"));
  copyFileSync(path("other-ca.crt"), path("clients.crt"));
  expect(await handshake(as("client"))).toBe("closed");
  expect((await withTls()).stdout).toBe("");
  expect((await withTls("other-client")).stdout).toBe("hi\n");
  await withoutIsRefused();
  await node.restart();
}, 60_000);

test("a daemon with an address or certificates that cannot be had does not start", async () => {
  const attempts: Array<[Record<string, string>, string]> = [
    [{ "streaming.address": "192.0.2.7" }, "192.0.2.7"],
    [{ "streaming.tls_cert_file": "/none", "streaming.tls_key_file": "/none" }, "tls_cert_file"],
  ];
  await node.kill();
  for (const [set, text] of attempts) {
    const failed = await node.start(set).then(
      () => "it started",
      (error: Error) => error.message,
    );
    expect(failed).toContain(text);
  }
  await node.start();
}, 60_000);

test("a daemon that is told to end tells its clients; the container lives on", async () => {
  const child = crictl.start("exec", container.id, "sleep", "1000");
  await until("the session", () => cribStatus().sessions.length === 1);
  expect(await node.crib.stop()).toBe(0);
  expect(await new Response(child.stderr).text()).toContain("shutting down");
  await node.start();
  expect((await exec("echo", "alive")).stdout).toBe("alive\n");
}, 60_000);

test("nothing is left", async () => {
  expect(await node.cleaned()).toEqual([]);
}, 60_000);
