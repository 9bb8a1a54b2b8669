/** streaming.address and streaming.port, with real daemons. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { type RunningCrib, startCrib } from "../fixtures/crib.ts";
import { type MadeContainer, startNode, type TestNode } from "../fixtures/pods.ts";
import { SpdyClient } from "../fixtures/spdy-client.ts";

/** That of test/isolate.sh's uplink. */
const ADDRESS = "192.0.2.2";
const PORT = "18273";
const FIXED = { "streaming.address": ADDRESS, "streaming.port": PORT };

let node: TestNode;
let container: MadeContainer;
const others: RunningCrib[] = [];

beforeAll(async () => {
  node = await startNode();
  container = await node.run(await node.pod());
}, 240_000);

afterAll(async () => {
  for (const each of others) await each.stop();
  expect(await node.cleaned()).toEqual([]);
  await node.stop();
}, 60_000);

async function url(): Promise<string> {
  const cmd = ["echo", "hello"];
  return (await node.runtime.exec({ containerId: container.id, cmd, stdout: true })).url;
}

/** What an exec says on its standard output. */
async function hello(): Promise<string> {
  const client = await SpdyClient.open(await url(), ["v4.channel.k8s.io"]);
  await client.stream({ streamtype: "error" });
  const stdout = await client.stream({ streamtype: "stdout" });
  await client.until("the end", () => client.isFinished(stdout));
  client.socket.destroy();
  return client.text(stdout);
}

/** Another daemon on this machine, or why there is none. */
async function another(name: string, set: Record<string, string>): Promise<string> {
  const directory = join(node.directory, name);
  return startCrib({ directory, set }).then(
    (crib) => {
      others.push(crib);
      return "up";
    },
    (error: Error) => error.message,
  );
}

test("URLs lead to the address and port of the configuration, also after a restart", async () => {
  for (const _ of ["first", "again"]) {
    await node.restart(FIXED);
    expect(await url()).toStartWith(`http://${ADDRESS}:${PORT}/exec/`);
    expect(await hello()).toBe("hello\n");
  }
  expect(node.crib.log()).toContain(`${ADDRESS} is not loopback, and TLS is off`);
});

test("a port that is taken: the daemon does not start, says which, and harms no other", async () => {
  const failure = await another("taken", FIXED);
  expect(failure).toContain("crib serve ended with 1");
  expect(failure).toContain(`streaming server: ${ADDRESS}, port ${PORT}: `);
  expect(failure).toContain("EADDRINUSE");
  expect(await hello()).toBe("hello\n");
});

test("two daemons have the same port on two addresses", async () => {
  expect(await another("loopback", { "streaming.port": PORT })).toBe("up");
  expect(await url()).toStartWith(`http://${ADDRESS}:${PORT}/`);
  expect(await hello()).toBe("hello\n");
});

test("an address by IPv6 is in brackets in URLs", async () => {
  await node.restart({ "streaming.address": "::1", "streaming.port": PORT });
  expect(await url()).toStartWith(`http://[::1]:${PORT}/`);
  expect(await hello()).toBe("hello\n");
  await node.restart();
});
