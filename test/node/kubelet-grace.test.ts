/** How long a kubelet's pod may take to end: terminationGracePeriodSeconds, with and without preStop. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { type Fields, hostDirectory, Kubelet, readHostFile, shell } from "./kubelet.ts";
import { cleaned } from "./node.ts";

let kubelet: Kubelet;

beforeAll(async () => {
  kubelet = await Kubelet.start();
});

afterAll(async () => {
  await kubelet.stop();
});

/** Runs a pod whose script tells in /tell/story, takes it away, and gives the story. */
async function endOf(
  name: string,
  graceSeconds: number,
  script: string,
  more: Fields = {},
): Promise<string[]> {
  const path = hostDirectory(name);
  const mount = { volumeMounts: [{ name: "tell", mountPath: "/tell" }] };
  kubelet.apply(name, {
    volumes: [{ name: "tell", hostPath: { path } }],
    containers: [shell(script, { ...mount, ...more })],
    terminationGracePeriodSeconds: graceSeconds,
  });
  await kubelet.ready(name);
  await kubelet.remove(name);
  return readHostFile(name, "story").split("\n");
}

test("a container that handles SIGTERM has all of its grace period for it", async () => {
  const script = `
    trap 'echo TERM >>/tell/story; sleep 8; echo saved >>/tell/story; exit 0' TERM
    sleep 100000 & wait`;
  expect(await endOf("handles", 120, script)).toEqual(["TERM", "saved"]);
});

test("one that ignores SIGTERM is killed when the period is over, and not before", async () => {
  // Counts by itself, so that a slow machine counts less, never more.
  const script = `
    trap 'echo TERM >>/tell/story; ended=1' TERM
    while :; do sleep 1; [ -z "$ended" ] || echo alive >>/tell/story; done`;
  const story = await endOf("ignores", 15, script);
  expect(story[0]).toBe("TERM");
  expect(story.length).toBeGreaterThan(3);
  // At most as many as seconds have passed, and the kill comes late on a slow machine.
  expect(story.length).toBeLessThan(45);
});

const preStop = (command: string) => ({
  lifecycle: { preStop: { exec: { command: ["sh", "-c", command] } } },
});

test("preStop comes before SIGTERM and takes of the period", async () => {
  const script = `
    trap 'echo TERM >>/tell/story; while :; do sleep 1; echo alive >>/tell/story; done' TERM
    sleep 100000 & wait`;
  // The hook takes 12 of 30 seconds: 18 are left after SIGTERM, and some for a slow machine.
  const hook = preStop("echo pre >>/tell/story; sleep 12; echo post >>/tell/story");
  const story = await endOf("hook", 30, script, hook);
  expect(story.slice(0, 3)).toEqual(["pre", "post", "TERM"]);
  expect(story.length).toBeLessThan(3 + 26);
});

test("a preStop that does not end is cut off with the period, then the container gets SIGTERM", async () => {
  const script = `
    trap 'echo TERM >>/tell/story; exit 0' TERM
    sleep 100000 & wait`;
  const hook = preStop("echo pre >>/tell/story; sleep 100000; echo never >>/tell/story");
  expect(await endOf("hangs", 20, script, hook)).toEqual(["pre", "TERM"]);
});

test("nothing is left when all pods are gone", async () => {
  await kubelet.stop();
  expect(await cleaned()).toEqual([]);
});
