import { expect, jest, test } from "bun:test";
import { Tokens } from "../../src/streaming/tokens.ts";

test("a token is good once", () => {
  const tokens = new Tokens<string>();
  const [one, two] = [tokens.issue("one"), tokens.issue("two")];
  expect(tokens.take(one)).toBe("one");
  expect(tokens.take(one)).toBeUndefined();
  expect(tokens.take(two)).toBe("two");
  expect(tokens.take("")).toBeUndefined();
});

test("a token has 16 random bytes and fits a URL", () => {
  const tokens = new Tokens<number>();
  const made = new Set(Array.from({ length: 1000 }, (_, index) => tokens.issue(index)));
  expect(made.size).toBe(1000);
  for (const token of made) expect(token).toMatch(/^[\w-]{22}$/);
});

test("a token is good for a minute", () => {
  let now = 0;
  const tokens = new Tokens<string>(() => now);
  const [early, late] = [tokens.issue("early"), tokens.issue("late")];
  now = 59_999;
  expect(tokens.take(early)).toBe("early");
  now = 60_000;
  expect(tokens.take(late)).toBeUndefined();
});

test("a thousand tokens may wait; those that are used or too old make room", () => {
  let now = 0;
  const tokens = new Tokens<number>(() => now);
  const made = Array.from({ length: 1000 }, (_, index) => tokens.issue(index));
  expect(() => tokens.issue(0)).toThrow("1000 streaming requests");
  tokens.take(made[500] ?? "");
  tokens.issue(0);
  expect(() => tokens.issue(0)).toThrow("1000 streaming requests");
  now = 60_000;
  tokens.issue(0);
});

test("a request that nobody comes for is forgotten when its token has expired", () => {
  jest.useFakeTimers();
  try {
    const tokens = new Tokens<string>();
    tokens.issue("one");
    jest.advanceTimersByTime(30_000);
    tokens.issue("two");
    jest.advanceTimersByTime(31_000);
    expect(tokens.size).toBe(1);
    jest.advanceTimersByTime(60_000);
    expect(tokens.size).toBe(0);
  } finally {
    jest.useRealTimers();
  }
});
