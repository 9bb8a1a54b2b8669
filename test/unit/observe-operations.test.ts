import { beforeEach, expect, test } from "bun:test";
import { Operations } from "../../src/observe/operations.ts";
import { orUndo } from "../../src/observe/undo.ts";

let operations: Operations;
let events: string[];

beforeEach(() => {
  operations = new Operations();
  events = [];
});

/** An operation that notes its begin and end, and lets others have a turn in between. */
function step(name: string) {
  return async () => {
    events.push(`${name} begins`);
    await Bun.sleep(1);
    events.push(`${name} ends`);
    return name;
  };
}

test("operations on one object run alone, in the order of arrival", async () => {
  const names = ["a", "b", "c"];
  const results = await Promise.all(names.map((name) => operations.run("pod/1", name, step(name))));
  expect(results).toEqual(names);
  expect(events).toEqual(names.flatMap((name) => [`${name} begins`, `${name} ends`]));
});

test("operations on different objects run at the same time", async () => {
  await Promise.all(["1", "2"].map((id) => operations.run(`pod/${id}`, id, step(id))));
  expect(events).toEqual(["1 begins", "2 begins", "1 ends", "2 ends"]);
});

test("a failure is its caller's, and the next operation runs", async () => {
  const broken = operations.run("pod/1", "broken", async () => {
    throw new Error("broken");
  });
  const next = operations.run("pod/1", "next", step("next"));
  await expect(broken).rejects.toThrow("broken");
  expect(await next).toBe("next");
});

test("what waits and runs is visible, with its stage, until it has ended", async () => {
  const gate = Promise.withResolvers<void>();
  const first = operations.run("pod/1", "run", async (operation) => {
    operation.stage("network");
    await gate.promise;
  });
  const second = operations.run("pod/1", "stop", async () => undefined);
  const view = operations.list().map(({ object, name, stage }) => `${object} ${name} ${stage}`);
  expect(view.toSorted()).toEqual(["pod/1 run network", "pod/1 stop queued"]);
  expect(operations.list().every(({ ageMs }) => ageMs >= 0)).toBe(true);
  gate.resolve();
  await Promise.all([first, second]);
  expect(operations.list()).toEqual([]);
});

test("idle tells whether everything has ended in time", async () => {
  const gate = Promise.withResolvers<void>();
  const running = operations.run("pod/1", "run", () => gate.promise);
  expect(await operations.idle(0)).toBe(false);
  gate.resolve();
  expect(await operations.idle(5_000)).toBe(true);
  await running;
});

const undo = async () => void events.push("undone");

test("a failed body is undone, and its own error is thrown", async () => {
  const failing = orUndo(() => Promise.reject(new Error("the body's")), undo);
  await expect(failing).rejects.toThrow("the body's");
  expect(events).toEqual(["undone"]);
});

test("the body's error is thrown also when it cannot be undone", async () => {
  const failing = orUndo(
    () => Promise.reject(new Error("the body's")),
    () => Promise.reject(new Error("the undo's")),
  );
  await expect(failing).rejects.toThrow("the body's");
});

test("what succeeds is not undone", async () => {
  expect(await orUndo(async () => 7, undo)).toBe(7);
  expect(events).toEqual([]);
});
