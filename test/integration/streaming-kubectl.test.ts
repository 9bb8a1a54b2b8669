import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeCa, makeCertificate } from "../fixtures/certificates.ts";
import { Crictl } from "../fixtures/crictl.ts";
import { type MadeContainer, type MadePod, startNode, type TestNode } from "../fixtures/pods.ts";
import {
  finish,
  haveClients,
  kubectl,
  type Running,
  startTarget,
} from "../fixtures/streaming-clients.ts";
import { until } from "../fixtures/until.ts";

const TRANSPORTS = ["spdy", "websocket"] as const;

let node: TestNode;
let pod: MadePod;
let container: MadeContainer;

beforeAll(async () => {
  node = await startNode();
  pod = await node.pod();
  container = await node.run(pod);
}, 240_000);

afterAll(async () => {
  expect(await node.cleaned()).toEqual([]);
  await node.stop();
}, 60_000);

interface Command {
  id?: string;
  cmd: string[];
  stdin?: boolean;
  stdout?: boolean;
  stderr?: boolean;
  tty?: boolean;
}

async function exec({ id = container.id, ...command }: Command, ...args: string[]) {
  const { url } = await node.runtime.exec({ containerId: id, ...command });
  return kubectl("command", "-url", url, ...args);
}

/** Collects what a program prints. */
function collect(child: Running): { text: string } {
  const output = { text: "" };
  void (async () => {
    for await (const chunk of child.stdout) output.text += Buffer.from(chunk).toString();
  })();
  return output;
}

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const shell = (script: string) => ["sh", "-c", script];

describe.skipIf(!haveClients)("kubectl's client", () => {
  test.each(TRANSPORTS)(
    "%s: a directory is copied there and back, like kubectl cp",
    async (transport) => {
      const directory = join(node.directory, `copy-${transport}`);
      mkdirSync(join(directory, "tree/sub"), { recursive: true });
      const content = crypto.getRandomValues(new Uint8Array(65_536));
      const large = Buffer.concat(Array.from({ length: 300 }, () => content));
      writeFileSync(join(directory, "tree/large"), large);
      writeFileSync(join(directory, "tree/sub/small"), "hello");
      const [there, back] = [join(directory, "there.tar"), join(directory, "back.tar")];
      Bun.spawnSync(["tar", "cf", there, "-C", directory, "tree"]);
      const target = `/tmp/${transport}`;
      const put = { cmd: shell(`mkdir -p ${target} && tar xmf - -C ${target}`), stdin: true };
      const sent = await exec(
        { ...put, stderr: true },
        "-transport",
        transport,
        "-in",
        there,
        "-stderr",
      );
      expect(await finish(sent)).toEqual({ exitCode: 0, stdout: "", stderr: "" });
      const hash = await node.sh(container, `sha256sum ${target}/tree/large`);
      expect(hash).toStartWith(sha256(large));
      const get = { cmd: shell(`tar cf - -C ${target} tree`), stdout: true, stderr: true };
      const got = await exec(get, "-transport", transport, "-out", back, "-stderr");
      expect(await finish(got)).toEqual({ exitCode: 0, stdout: "", stderr: "" });
      const unpacked = join(directory, "back");
      mkdirSync(unpacked);
      Bun.spawnSync(["tar", "xf", back, "-C", unpacked]);
      expect(sha256(readFileSync(join(unpacked, "tree/large")))).toBe(sha256(large));
      expect(readFileSync(join(unpacked, "tree/sub/small"), "utf8")).toBe("hello");
    },
  );

  test.each(["v4.", "v3.", "v2.", ""])(
    "SPDY, %schannel.k8s.io: both outputs and the end",
    async (version) => {
      const flags = ["-protocols", `${version}channel.k8s.io`, "-stdin", "-stdout", "-stderr"];
      const streams = { stdin: true, stdout: true, stderr: true };
      const good = await exec(
        { cmd: shell("read x; echo $x; echo err >&2"), ...streams },
        ...flags,
      );
      expect(await finish(good, "in\n")).toEqual({ exitCode: 0, stdout: "in\n", stderr: "err\n" });
      // Its client takes the end of the outputs for the end.
      if (version === "") return;
      const bad = await finish(await exec({ cmd: shell("exit 42"), ...streams }, ...flags));
      // Before version 4 the end is a text.
      if (version === "v4.") expect(bad.exitCode).toBe(42);
      else expect(bad.stderr).toContain("command terminated with non-zero exit code: 42");
      expect(bad.exitCode).not.toBe(0);
    },
  );

  test.each(TRANSPORTS)("%s: a terminal follows the client's size", async (transport) => {
    const show = "while read line; do stty size; done";
    const flags = ["-transport", transport, "-stdin", "-stdout", "-tty", "-size", "111x33,90x20"];
    const streams = { stdin: true, stdout: true, tty: true };
    await followSize(await exec({ cmd: shell(show), ...streams }, ...flags));
    const target = await node.run(pod, { command: shell(show), stdin: true, tty: true });
    const { url } = await node.runtime.attach({ containerId: target.id, ...streams });
    await followSize(kubectl("command", "-url", url, ...flags));
  });
});

/** Asks a terminal for its size, until it is the first one, then the second. */
async function followSize(child: Running): Promise<void> {
  const output = collect(child);
  const asked = (size: string) => {
    child.stdin.write("\n");
    child.stdin.flush();
    return output.text.includes(size);
  };
  await until("the first size", () => asked("33 111"));
  child.kill("SIGUSR1");
  await until("the second size", () => asked("20 90"));
  child.kill("SIGKILL");
  await child.exited;
}

test("crictl exec -it over WebSocket: a terminal of its size, and the exit code", async () => {
  let output = "";
  const script =
    'until [ "$(stty size 2>/dev/null)" = "33 111" ]; do sleep 0.05; done; echo ready; read x; exit 7';
  const args = ["exec", "--transport", "websocket", "-it", container.id, ...shell(script)];
  const child = Bun.spawn(new Crictl(node).command(...args), {
    terminal: {
      cols: 111,
      rows: 33,
      data: (_, chunk) => {
        output += Buffer.from(chunk).toString();
      },
    },
  });
  await until("the size", () => output.includes("ready"));
  child.terminal?.write("\r");
  await child.exited;
  expect(output).toContain("exit code 7");
  child.terminal?.close();
}, 60_000);

describe.skipIf(!haveClients)("over TLS, with a client certificate", () => {
  const path = (name: string) => join(node.directory, name);
  const client = (transport: string) => [
    ...["-transport", transport, "-cert", path("client.crt"), "-key", path("client.key")],
  ];

  beforeAll(async () => {
    makeCa(node.directory, "ca");
    for (const name of ["server", "client"]) makeCertificate(node.directory, name, "ca");
    await node.restart({
      "streaming.tls_cert_file": path("server.crt"),
      "streaming.tls_key_file": path("server.key"),
      "streaming.tls_client_ca_file": path("ca.crt"),
    });
  }, 60_000);

  test.each(TRANSPORTS)("%s: 32 MB go there and come back, to their end", async (transport) => {
    const [there, back] = [path(`${transport}.in`), path(`${transport}.out`)];
    const content = Buffer.alloc(32 * 1024 * 1024, crypto.getRandomValues(new Uint8Array(4_096)));
    writeFileSync(there, content);
    const flags = [...client(transport), "-in", there, "-out", back];
    const child = await exec({ cmd: ["cat"], stdin: true, stdout: true }, ...flags);
    expect(await finish(child)).toMatchObject({ exitCode: 0, stderr: "" });
    expect(sha256(readFileSync(back))).toBe(sha256(content));
  });

  test.each(TRANSPORTS)("%s: a client that reads late gets everything", async (transport) => {
    const late = ["-stdout", "-discard", "-stall-after", "1000000", "-stall", "1s"];
    const cmd = ["dd", "if=/dev/zero", "bs=65536", "count=1024"];
    const child = await exec({ cmd, stdout: true }, ...client(transport), ...late);
    expect(JSON.parse((await finish(child)).stdout)).toMatchObject({ bytes: 64 * 1024 * 1024 });
  });

  test.each(TRANSPORTS)("%s: a process that reads late gets everything", async (transport) => {
    const cmd = shell("sleep 1; wc -c");
    const flags = [...client(transport), "-in", path(`${transport}.in`), "-stdout"];
    const child = await exec({ cmd, stdin: true, stdout: true }, ...flags);
    expect((await finish(child)).stdout.trim()).toBe(String(32 * 1024 * 1024));
  });

  test.each(TRANSPORTS)("%s: a hundred forwarded connections", async (transport) => {
    const { info } = await node.runtime.containerStatus({
      containerId: container.id,
      verbose: true,
    });
    using target = await startTarget(Number(JSON.parse(info.info ?? "{}").pid), 100_000);
    const { url } = await node.runtime.portForward({ podSandboxId: pod.id });
    const load = ["-port", String(target.port), "-connections", "100", "-parallel", "20"];
    const { stdout } = await finish(kubectl("load", "-url", url, ...client(transport), ...load));
    expect(JSON.parse(stdout)).toMatchObject({ bytes: 10_000_000, failed: 0 });
  });
});
