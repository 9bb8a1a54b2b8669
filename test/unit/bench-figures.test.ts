import { expect, test } from "bun:test";
import { type Figure, median, percentile, table, verdict } from "../bench/figures.ts";

const figure: Figure = {
  name: "exec",
  unit: "ms",
  crib: 10,
  peers: { runc: 8 },
  limit: { value: 12, text: "1.5 of runc exec" },
};

test("percentiles are by nearest rank, whatever the order", () => {
  expect(median([9, 1, 5])).toBe(5);
  expect(median([4, 1, 3, 2])).toBe(2);
  expect(percentile([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 90)).toBe(9);
  expect(median([])).toBeNaN();
});

test("a budget holds up to its limit; a figure that is missing or has no limit to compare with fails", () => {
  expect(verdict({ ...figure, crib: 12 })).toBe(true);
  expect(verdict({ ...figure, crib: 12.1 })).toBe(false);
  expect(verdict({ ...figure, crib: undefined })).toBe(false);
  expect(verdict({ ...figure, limit: { value: Number.NaN, text: "" } })).toBe(false);
  expect(verdict({ ...figure, limit: undefined })).toBeUndefined();
});

test("the table shows the figure, its ratio to the peer, and a missed budget", () => {
  const text = table([figure, { ...figure, crib: 13 }]);
  expect(text).toContain("exec [ms]");
  expect(text).toContain("runc 8.0 (x1.25)");
  expect(text).toMatch(/<= 12\.0 \(1\.5 of runc exec\)\s+ok\n/);
  expect(text).toMatch(/MISSED$/);
});
