/** Who gets a processor first: the daemon before what works for it, and before no pod's processes. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { startCrib } from "../fixtures/crib.ts";
import { type MadePod, startNode, type TestNode } from "../fixtures/pods.ts";
import { niceOf } from "../fixtures/process-status.ts";

let node: TestNode;
let pod: MadePod;

beforeAll(async () => {
  node = await startNode({});
  pod = await node.pod();
});

afterAll(async () => {
  try {
    expect(await node.cleaned()).toEqual([]);
  } finally {
    await node.stop();
  }
});

test("the daemon is preferred, and its session where sessions are weighed", () => {
  const { pid } = node.crib;
  expect(niceOf(pid)).toBe(-10);
  const autogroup = `/proc/${pid}/autogroup`;
  if (existsSync(autogroup)) expect(readFileSync(autogroup, "utf8")).toMatch(/ nice -10\n$/);
});

test("its session's other commands are not, nor the pod's monitor, its containers and commands", async () => {
  const container = await node.run(pod);
  const { stdout } = await node.runtime.execSync({
    containerId: container.id,
    cmd: ["cat", "/proc/self/stat"],
  });
  const [, inside = ""] = /^.*\) (.*)$/m.exec(Buffer.from(stdout).toString()) ?? [];
  expect(inside.split(" ")[16]).toBe("0");
  const others = readdirSync("/proc").filter((name) => /crib-monitor|sleep/.test(commandOf(name)));
  expect(others.length).toBeGreaterThan(1);
  expect(others.filter((pid) => niceOf(pid) !== 0)).toEqual([]);
});

test("who has chosen a nice value keeps it", async () => {
  const program = join(import.meta.dir, "../../dist/crib");
  const crib = await startCrib({ command: ["nice", "-n", "3", program] });
  try {
    expect(niceOf(crib.pid)).toBe(3);
  } finally {
    await crib.stop();
  }
});

function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8");
  } catch {
    return "";
  }
}
