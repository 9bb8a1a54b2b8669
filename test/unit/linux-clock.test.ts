import { expect, test } from "bun:test";
import { monotonicNs, realtimeNs } from "../../src/linux/clock.ts";
import { nowNs } from "../../src/state/clock.ts";

test("the time of day is that of Bun, in nanoseconds", () => {
  const before = BigInt(Date.now());
  const times = Array.from({ length: 100 }, realtimeNs);
  const after = BigInt(Date.now());
  for (const time of times) {
    expect(time / 1_000_000n).toBeGreaterThanOrEqual(before);
    expect(time / 1_000_000n).toBeLessThanOrEqual(after);
  }
  expect(times.some((time) => time % 1_000_000n > 1_000n)).toBe(true);
  expect(monotonicNs()).toBeGreaterThan(0n);
});

test("no two moments of creation are the same", () => {
  const times = Array.from({ length: 1_000 }, nowNs);
  expect(new Set(times).size).toBe(1_000);
  expect(times).toEqual(times.toSorted((a, b) => (a < b ? -1 : 1)));
});
