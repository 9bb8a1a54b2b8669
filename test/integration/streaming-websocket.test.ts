import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { createServer, type Socket } from "node:net";
import { Crictl } from "../fixtures/crictl.ts";
import { type MadeContainer, type MadePod, startNode, type TestNode } from "../fixtures/pods.ts";
import { feed, finish, haveClients, kubectl, startTarget } from "../fixtures/streaming-clients.ts";
import { until } from "../fixtures/until.ts";
import { RawWebSocket } from "../fixtures/websocket.ts";

const withClients = describe.skipIf(!haveClients);

let node: TestNode;
let pod: MadePod;
let container: MadeContainer;

beforeAll(async () => {
  node = await startNode();
  pod = await node.pod();
  container = await node.run(pod);
});

afterAll(async () => {
  expect(await node.cleaned()).toEqual([]);
  await node.stop();
});

interface Streams {
  stdin?: boolean;
  stdout?: boolean;
  stderr?: boolean;
  tty?: boolean;
}

/** Asks for an exec of a shell script, and runs kubectl's client on it over WebSocket. */
async function exec(script: string, streams: Streams, ...args: string[]) {
  const { url } = await node.runtime.exec({
    containerId: container.id,
    cmd: ["sh", "-c", script],
    ...streams,
  });
  const flags = Object.entries(streams).flatMap(([name, value]) => (value ? [`-${name}`] : []));
  return kubectl("command", "-url", url, "-transport", "websocket", ...flags, ...args);
}

const crictl = (...args: string[]) => new Crictl(node).start(...args);
const overWebSocket = ["--transport", "websocket"];
const random = (bytes: number) => Buffer.from(crypto.getRandomValues(new Uint8Array(bytes)));

withClients("crictl", () => {
  test("exec tells output and exit code", async () => {
    const command = ["sh", "-c", "echo out; echo err >&2; exit 3"];
    const ran = await finish(crictl("exec", ...overWebSocket, container.id, ...command));
    expect(ran.stdout).toBe("out\n");
    expect(ran.stderr).toContain("err\n");
    expect(ran.stderr).toContain("exit code 3");
  });

  test("exec -i sends its input, and its end", async () => {
    const ran = await finish(crictl("exec", ...overWebSocket, "-i", container.id, "cat"), "hello");
    expect(ran).toMatchObject({ exitCode: 0, stdout: "hello" });
  });

  test("attach -i talks to the container's own process until its input ends", async () => {
    const talking = await node.run(pod, { command: ["cat"], stdin: true });
    const child = crictl("attach", ...overWebSocket, "-i", talking.id);
    await feed(child, "hello\n");
    const { value } = await child.stdout.getReader().read();
    expect(new TextDecoder().decode(value)).toBe("hello\n");
    void child.stdin.end();
    expect(await child.exited).toBe(0);
  });

  test("port-forward reaches a port in the pod", async () => {
    using target = await startTarget(await pidOf(container), 1_000);
    const child = crictl("port-forward", ...overWebSocket, pod.id, `0:${target.port}`);
    const { value } = await child.stdout.getReader().read();
    const [, port] = /127\.0\.0\.1:(\d+)/.exec(new TextDecoder().decode(value)) ?? [];
    const response = await received(Number(port));
    expect(response.length).toBe(1_000);
    child.kill("SIGKILL");
    await child.exited;
  });
});

withClients("kubectl's client", () => {
  test.each(["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"])(
    "%s: both outputs apart",
    async (protocol) => {
      const streams = { stdout: true, stderr: true };
      const child = await exec("echo out; echo err >&2", streams, "-protocols", protocol);
      expect(await finish(child)).toEqual({ exitCode: 0, stdout: "out\n", stderr: "err\n" });
    },
  );

  test.each(["v5.channel.k8s.io", "v4.channel.k8s.io"])("%s: the exit code", async (protocol) => {
    const child = await exec("exit 42", { stdout: true }, "-protocols", protocol);
    expect((await finish(child)).exitCode).toBe(42);
  });

  test("a command that is not there is a failure that says so", async () => {
    const { url } = await node.runtime.exec({
      containerId: container.id,
      cmd: ["nope"],
      stdout: true,
    });
    const ran = await finish(kubectl("command", "-url", url, "-transport", "websocket", "-stdout"));
    expect(ran.exitCode).not.toBe(0);
    expect(ran.stderr).toContain("nope");
  });

  test("32 MB go there and come back", async () => {
    const bytes = random(32 << 20);
    const child = await exec("cat", { stdin: true, stdout: true });
    const { exitCode, stdout } = await finish(child, bytes);
    expect(exitCode).toBe(0);
    expect(sha256(Buffer.from(stdout, "latin1"))).toBe(sha256(bytes));
  });

  test("a client that stops reading for a while gets everything", async () => {
    const script = "dd if=/dev/zero bs=65536 count=1024 2>/dev/null";
    const flags = ["-discard", "-stall-after", "1000000", "-stall", "1s"];
    const child = await exec(script, { stdout: true }, ...flags);
    const { stdout } = await finish(child);
    expect(JSON.parse(stdout)).toMatchObject({ bytes: 64 << 20 });
  });

  test("a terminal has the client's size", async () => {
    const streams = { stdin: true, stdout: true, tty: true };
    const child = await exec("read line; stty size", streams, "-size", "111x33");
    expect((await finish(child, "\n")).stdout).toContain("33 111");
  });

  test("several clients are attached at once", async () => {
    const talking = await node.run(pod, { command: ["cat"], stdin: true });
    const attach = async (stdin: boolean) => {
      const { url } = await node.runtime.attach({ containerId: talking.id, stdin, stdout: true });
      const flags = stdin ? ["-stdin", "-stdout"] : ["-stdout"];
      return kubectl("command", "-url", url, "-transport", "websocket", ...flags);
    };
    const children = [await attach(false), await attach(false), await attach(true)];
    await Bun.sleep(300);
    if (children[2] !== undefined) await feed(children[2], "to all\n");
    for (const child of children) {
      const { value } = await child.stdout.getReader().read();
      expect(new TextDecoder().decode(value)).toBe("to all\n");
    }
    for (const child of children) {
      child.kill("SIGKILL");
      await child.exited;
    }
  });
});

withClients("port-forward over WebSocket", () => {
  const forward = async (
    id: string,
    command: "forward" | "load",
    port: number,
    ...args: string[]
  ) => {
    const { url } = await node.runtime.portForward({ podSandboxId: id });
    return kubectl(command, "-url", url, "-transport", "websocket", "-port", String(port), ...args);
  };

  test("hundreds of connections, 50 at once", async () => {
    using target = await startTarget(await pidOf(container), 100_000);
    const child = await forward(
      pod.id,
      "load",
      target.port,
      "-connections",
      "300",
      "-parallel",
      "50",
    );
    const { stdout, stderr } = await finish(child);
    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toMatchObject({ bytes: 300 * 100_000, failed: 0 });
  });

  test("a connection that is reset, or that nobody takes, ends no other", async () => {
    const host = await node.pod({
      linux: { securityContext: { namespaceOptions: { network: 2, pid: 1 } } },
    });
    const sockets: Socket[] = [];
    const server = createServer((socket) => {
      sockets.push(socket);
      socket.on("error", () => undefined);
      socket.on("data", (data) =>
        String(data) === "reset" ? socket.resetAndDestroy() : socket.write(data),
      );
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("no port");
    const child = await forward(host.id, "forward", address.port);
    const { value } = await child.stdout.getReader().read();
    const port = Number(new TextDecoder().decode(value).trim().split(":").at(-1));
    const kept = await Bun.connect({ hostname: "127.0.0.1", port, socket: echoes() });
    const reset = await Bun.connect({ hostname: "127.0.0.1", port, socket: echoes() });
    kept.write("one");
    await until("an echo", () => kept.data.text === "one");
    reset.write("reset");
    await until("the reset", () => reset.data.closed);
    kept.write("two");
    await until("another echo", () => kept.data.text === "onetwo");
    kept.end();
    server.close();
    for (const socket of sockets) socket.destroy();
    child.kill("SIGKILL");
    await child.exited;
  });
});

test("the input of a client that vanishes ends; the command goes on", async () => {
  const { url } = await node.runtime.exec({
    containerId: container.id,
    cmd: ["sh", "-c", "cat >/dev/null; echo over >/tmp/over"],
    stdin: true,
    stdout: true,
  });
  const client = await RawWebSocket.connect(url, { "Sec-WebSocket-Protocol": "v4.channel.k8s.io" });
  client.send("binary", "\x00half a li");
  client.socket.resetAndDestroy();
  await until("the command's end", async () =>
    (await node.sh(container, "cat /tmp/over 2>/dev/null; true")).includes("over"),
  );
});

test("bad input ends its connection and nothing else", async () => {
  for (const bytes of ["ffffffff", "820100", "83808080", "82ff7fffffffffffffff00000000"]) {
    const { url } = await node.runtime.exec({
      containerId: container.id,
      cmd: ["cat"],
      stdin: true,
      stdout: true,
    });
    const client = await RawWebSocket.connect(url, {
      "Sec-WebSocket-Protocol": "v5.channel.k8s.io",
    });
    client.socket.write(Buffer.from(bytes, "hex"));
    expect((await client.rest()).at(-1)).toMatch(/^close 100[29] /);
  }
  await node.runtime.version({});
});

async function pidOf({ id }: { id: string }): Promise<number> {
  const { info } = await node.runtime.containerStatus({ containerId: id, verbose: true });
  return Number(JSON.parse(info.info ?? "{}").pid);
}

const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");

async function received(port: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  await new Promise<void>((resolve, reject) => {
    void Bun.connect({
      hostname: "127.0.0.1",
      port,
      socket: {
        data: (_, chunk) => void chunks.push(chunk),
        close: () => resolve(),
        error: (_, error) => reject(error),
      },
    });
  });
  return Buffer.concat(chunks);
}

function echoes() {
  return {
    open(socket: Bun.Socket<{ text: string; closed: boolean }>) {
      socket.data = { text: "", closed: false };
    },
    data(socket: Bun.Socket<{ text: string; closed: boolean }>, chunk: Buffer) {
      socket.data.text += chunk.toString();
    },
    close(socket: Bun.Socket<{ text: string; closed: boolean }>) {
      socket.data.closed = true;
    },
  };
}
