import { expect, test } from "bun:test";
import { OneATurn } from "../../src/observe/one-a-turn.ts";

test("those who come at once have a turn each, in order, and whoever else waits has one between", async () => {
  const queue = new OneATurn();
  const seen: string[] = [];
  let over = false;
  const other = () => {
    seen.push("other");
    if (!over) setImmediate(other);
  };
  setImmediate(other);
  const callers = ["a", "b", "c"].map((name) => queue.next().then(() => seen.push(name)));
  await Promise.all(callers);
  over = true;
  expect(seen.filter((name) => name !== "other")).toEqual(["a", "b", "c"]);
  expect(seen.slice(seen.indexOf("a"), seen.indexOf("c") + 1)).toEqual([
    ...["a", "other", "b", "other", "c"],
  ]);
});

const NEVER_MS = 2 ** 31 - 1;

test("the first one never waits, the next one for the pause", async () => {
  const long = new OneATurn(NEVER_MS);
  await long.next();
  let second = false;
  void long.next().then(() => {
    second = true;
  });
  for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  expect(second).toBe(false);
  const short = new OneATurn(1);
  await Promise.all([short.next(), short.next(), short.next()]);
});
