/** What commands get and what becomes of their output. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type MadeContainer, type MadePod, startNode, type TestNode } from "../fixtures/pods.ts";

let node: TestNode;
let pod: MadePod;
let container: MadeContainer;

beforeAll(async () => {
  node = await startNode();
  pod = await node.pod();
  container = await node.run(pod, {
    command: ["sleep", "100000"],
    envs: [{ key: "ANSWER", value: Buffer.from('4"2') }],
  });
}, 60_000);
afterAll(async () => {
  await node.runtime.removePodSandbox({ podSandboxId: pod.id });
  expect(node.leftovers()).toEqual([]);
  await node.stop();
}, 60_000);

function exec(...cmd: string[]) {
  return node.runtime.execSync({ containerId: container.id, cmd, timeout: 60n });
}

test("commands that say much at the same time are all told whole", async () => {
  const numbers = `${Array.from({ length: 100_000 }, (_, i) => i + 1).join("\n")}\n`;
  const all = ["stdout", "stdout", "stderr", "stdout"] as const;
  const redirect = { stdout: "", stderr: " >&2" };
  const said = await Promise.all(
    all.map((stream) => exec("sh", "-c", `seq 1 100000${redirect[stream]}; exit 3`)),
  );
  for (const [index, stream] of all.entries()) {
    expect(Buffer.from(said[index]?.[stream] ?? []).toString() === numbers).toBe(true);
    expect(said[index]?.exitCode).toBe(3);
  }
}, 60_000);

test("output is kept to the limit, and the process goes on to its end", async () => {
  const { stdout, exitCode } = await exec("sh", "-c", "dd if=/dev/zero bs=1M count=9; exit 4");
  expect([stdout.length, exitCode]).toEqual([4 * 1024 * 1024, 4]);
}, 60_000);

test("a command has its container's environment, also where an older Crib has made that", async () => {
  const file = join(node.directory, "state/containers", container.id, "process.json");
  for (const present of [true, false]) {
    expect(existsSync(file)).toBe(true);
    if (!present) rmSync(file);
    const { stdout } = await exec("sh", "-c", 'echo "$ANSWER $HOSTNAME"');
    expect(Buffer.from(stdout).toString()).toMatch(/^4"2 \S+\n$/);
  }
  expect(existsSync(file)).toBe(true);
}, 60_000);
