/** Container logs as the kubelet and an operator meet them, through CRI. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { startNode, type TestNode } from "../fixtures/pods.ts";
import { until } from "../fixtures/until.ts";

const ROTATIONS = 100;
let node: TestNode;

beforeAll(async () => {
  node = await startNode();
}, 60_000);
afterAll(async () => node.stop());

/** Time, stream, tag. */
const PREFIX = 40;

/** Checks that the lines of a part of a log go on where the one before ended; the last number. */
function lastNumber(text: string, before: number): number {
  let last = before;
  for (let at = 0; at < text.length; ) {
    const end = text.indexOf("\n", at);
    const number = `${last + 1}`;
    if (end - at !== PREFIX + number.length || !text.endsWith(number, end)) {
      throw new Error(`after ${last} comes: ${text.slice(at, end)}`);
    }
    last += 1;
    at = end + 1;
  }
  return last;
}

test("100 rotations under full load lose no line and double none", async () => {
  const pod = await node.pod();
  const container = await node.run(pod, { command: ["seq", "1", "2000000000"] });
  const parts = Array.from({ length: ROTATIONS }, (_, index) => `${container.logPath}.${index}`);
  for (const part of parts) {
    await until("more lines", () => statSync(container.logPath).size > 0);
    renameSync(container.logPath, part);
    await node.runtime.reopenContainerLog({ containerId: container.id });
  }
  await node.runtime.stopContainer({ containerId: container.id, timeout: 0n });
  let last = 0;
  for (const part of parts) {
    last = lastNumber(readFileSync(part, "latin1"), last);
    rmSync(part);
  }
  // It was killed in the middle of a write: its last line may be the beginning of a number.
  const rest = readFileSync(container.logPath, "latin1");
  const cut = rest.lastIndexOf("\n", rest.length - 2) + 1;
  last = lastNumber(rest.slice(0, cut), last);
  expect(`${last + 1}`).toStartWith(rest.slice(cut + PREFIX, -1));
  expect(last).toBeGreaterThan(ROTATIONS);
  await node.remove(pod);
}, 120_000);

test("what a limit took from a log is told in the log, in the status and by the daemon", async () => {
  await node.restart({ "container.log_limit_bytes_per_second": "1000" });
  const pod = await node.pod();
  const container = await node.run(pod, {
    command: ["sh", "-c", "seq 1 5000; sleep 1000"],
  });
  const dropped = async () => {
    const { info } = await node.runtime.containerStatus({
      containerId: container.id,
      verbose: true,
    });
    return Number(JSON.parse(info.info ?? "{}").droppedLogBytes);
  };
  await until("dropped output", async () => (await dropped()) > 20_000);
  await node.runtime.stopContainer({ containerId: container.id, timeout: 0n });
  const bytes = await dropped();
  expect(container.log().at(-1)?.text).toBe(
    `[crib: ${bytes} bytes of output are missing here: more than the log's limit per second]`,
  );
  expect(node.crib.log()).toContain(`"droppedLogBytes":${bytes},`);
  // It is the container's for ever.
  await node.restart();
  expect(await dropped()).toBe(bytes);
  await node.remove(pod);
  expect(await node.cleaned()).toEqual([]);
});
