import { beforeEach, expect, test } from "bun:test";
import { Operations } from "../../src/observe/operations.ts";
import { Undo } from "../../src/observe/undo.ts";

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

test("a failed body is undone in reverse order, and its own error is thrown", async () => {
  const failing = Undo.on(async (undo) => {
    undo.add("first", () => void events.push("first"));
    undo.add("second", async () => {
      await Bun.sleep(1);
      events.push("second");
    });
    throw new Error("the body's");
  });
  await expect(failing).rejects.toThrow("the body's");
  expect(events).toEqual(["second", "first"]);
});

test("a step that fails does not keep the others from being undone", async () => {
  const failing = Undo.on(async (undo) => {
    undo.add("first", () => void events.push("first"));
    undo.add("broken", () => {
      throw new Error("the step's");
    });
    undo.add("rejected", () => Promise.reject(new Error("the step's")));
    throw new Error("the body's");
  });
  await expect(failing).rejects.toThrow("the body's");
  expect(events).toEqual(["first"]);
});

test("what is to be undone only after everything else stays when a step fails", async () => {
  const attempt = (broken: boolean) =>
    Undo.on(async (undo) => {
      undo.addIfClean("row", () => void events.push("row"));
      undo.add("thing", () => {
        if (broken) throw new Error("the step's");
        events.push("thing");
      });
      throw new Error("the body's");
    });
  await expect(attempt(true)).rejects.toThrow("the body's");
  expect(events).toEqual([]);
  await expect(attempt(false)).rejects.toThrow("the body's");
  expect(events).toEqual(["thing", "row"]);
});

test("what succeeds is not undone", async () => {
  const result = Undo.on(async (undo) => {
    undo.add("never", () => void events.push("never"));
    return 7;
  });
  expect(await result).toBe(7);
  expect(events).toEqual([]);
});
