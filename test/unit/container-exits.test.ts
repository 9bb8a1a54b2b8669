import { expect, test } from "bun:test";
import { endingOf } from "../../src/container/exit.ts";
import { Exits } from "../../src/container/exits.ts";
import { hasLabels } from "../../src/cri/labels.ts";

test("all who wait for an exit are woken by it, and nobody else", async () => {
  const exits = new Exits();
  const waits = [exits.wait("a", 60_000), exits.wait("a", 60_000)];
  const other = exits.wait("b", 1);
  exits.notify("a");
  expect(await Promise.all(waits)).toEqual([true, true]);
  expect(await other).toBe(false);
  exits.notify("a");
  expect(await exits.wait("a", 0)).toBe(false);
});

test("an exit's reason is CRI's", () => {
  const exit = { id: "c", exitCode: 0, signal: 0, finishedAtNs: 5n, oomKilled: false };
  const ending = (changes: object) => endingOf({ ...exit, droppedLogBytes: 0n, ...changes });
  expect(ending({})).toMatchObject({ reason: "Completed", exitCode: 0, finishedAtNs: 5n });
  expect(ending({ exitCode: 1 }).reason).toBe("Error");
  expect(ending({ exitCode: 137, signal: 9 }).reason).toBe("Error");
  expect(ending({ exitCode: 137, signal: 9, oomKilled: true }).reason).toBe("OOMKilled");
});

test("a selector asks for each of its labels", () => {
  const labels = { a: "1", b: "2" };
  expect(hasLabels(labels, undefined)).toBe(true);
  expect(hasLabels(labels, {})).toBe(true);
  expect(hasLabels(labels, { a: "1", b: "2" })).toBe(true);
  expect(hasLabels(labels, { a: "2" })).toBe(false);
  expect(hasLabels(labels, { c: "" })).toBe(false);
  expect(hasLabels({}, { a: "1" })).toBe(false);
});
