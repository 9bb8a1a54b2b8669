/** A daemon that has made and removed many pods holds what it held before. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { startNode, type TestNode, until } from "../fixtures/pods.ts";

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

async function cycle(index: number): Promise<void> {
  const pod = await node.pod();
  const container = await node.run(pod);
  const short = await node.run(pod, { command: ["true"] });
  await node.sh(container, "echo hello");
  await node.runtime.containerStats({ containerId: container.id });
  await node.exited(short);
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
