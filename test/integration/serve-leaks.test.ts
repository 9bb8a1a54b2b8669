/** A daemon that has made and removed many pods holds what it held before. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { startNode, type TestNode } from "../fixtures/pods.ts";
import { SpdyClient } from "../fixtures/spdy-client.ts";
import { until } from "../fixtures/until.ts";
import { RawWebSocket } from "../fixtures/websocket.ts";

const CYCLES = 30;
let node: TestNode;

beforeAll(async () => {
  node = await startNode();
});

afterAll(async () => {
  await node.stop();
});

/** The daemon's open files by kind; numbers of sockets and pipes do not matter. */
function openFiles(pid: number): string[] {
  const kinds: string[] = [];
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      kinds.push(readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/\[\d+\]/, ""));
    } catch {
      // Closed while we looked.
    }
  }
  return kinds.sort();
}

function children(pid: number): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        return new RegExp(`^PPid:\\s${pid}$`, "m").test(
          readFileSync(`/proc/${name}/status`, "utf8"),
        );
      } catch {
        return false;
      }
    });
}

/** Sessions that end well, whose client vanishes, sends nonsense, or is refused. */
async function stream(podSandboxId: string, containerId: string): Promise<void> {
  const exec = async (...cmd: string[]) =>
    (await node.runtime.exec({ containerId, cmd, stdin: true, stdout: true })).url;
  const open = async (url: string) => {
    const client = await SpdyClient.open(url, ["v4.channel.k8s.io"]);
    for (const streamtype of ["error", "stdin", "stdout"]) await client.stream({ streamtype });
    return client;
  };
  const good = await open(await exec("echo", "hi"));
  await good.until("the end", () => good.ended);
  good.socket.destroy();
  const vanishing = await open(await exec("cat"));
  vanishing.socket.resetAndDestroy();
  const malformed = await open(await exec("cat"));
  malformed.send(Buffer.alloc(64, 0xff));
  await malformed.until("the end", () => malformed.ended);
  malformed.socket.destroy();
  const headers = { "Sec-WebSocket-Protocol": "v5.channel.k8s.io" };
  const webSocket = await RawWebSocket.connect(await exec("cat"), headers);
  webSocket.socket.write(Buffer.from("ffff", "hex"));
  await webSocket.rest();
  webSocket.socket.destroy();
  expect((await SpdyClient.open(await exec("cat"), ["v9"])).answer.status).toBe(403);
  // Nobody attaches to what has no stdin; nobody listens on port 1.
  const attach = await node.runtime.attach({ containerId, stdin: true, stdout: true });
  const attached = await open(attach.url);
  await attached.until("the end", () => attached.ended);
  attached.socket.destroy();
  const { url } = await node.runtime.portForward({ podSandboxId });
  const forward = await SpdyClient.open(url, ["portforward.k8s.io"]);
  const headersOf = (streamtype: string) => ({ streamtype, port: "1", requestid: "1" });
  const error = await forward.stream(headersOf("error"));
  await forward.stream(headersOf("data"));
  await forward.until("the refusal", () => forward.isFinished(error));
  forward.socket.destroy();
}

async function cycle(index: number): Promise<void> {
  const pod = await node.pod();
  const container = await node.run(pod);
  const short = await node.run(pod, { command: ["true"] });
  await node.sh(container, "echo hello");
  await node.runtime.containerStats({ containerId: container.id });
  await node.exited(short);
  await stream(pod.id, container.id);
  // Half of them end in another way: refused, timed out, removed while running.
  if (index % 2 === 0) {
    const missing = { containerId: container.id, cmd: ["nonexistent"] };
    await node.runtime.execSync(missing).catch(() => undefined);
    await node.create(pod, { image: { image: "nope" } }).catch(() => undefined);
    await node.runtime.removePodSandbox({ podSandboxId: pod.id });
  } else await node.remove(pod);
}

test("open files and children are the same after many pods, and nothing else is left", async () => {
  const { pid } = node.crib;
  for (let index = 0; index < 4; index += 1) await cycle(index);
  await node.runtime.status({ verbose: true });
  let before: string[] = [];
  // Files of what has just ended may still be about to close.
  await until("a quiet daemon", async () => {
    before = openFiles(pid);
    await Bun.sleep(300);
    return before.join() === openFiles(pid).join() && children(pid).length === 0;
  });
  const rounds = Array.from({ length: CYCLES }, (_, index) => index);
  for (let start = 0; start < CYCLES; start += 5) {
    await Promise.all(rounds.slice(start, start + 5).map(cycle));
  }
  await until("the same open files", () => openFiles(pid).join() === before.join()).catch(() => {
    expect(openFiles(pid)).toEqual(before);
  });
  await until("no children", () => children(pid).length === 0);
  expect(node.leftovers()).toEqual([]);
}, 120_000);
