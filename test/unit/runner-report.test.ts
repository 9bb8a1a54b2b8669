import { expect, test } from "bun:test";
import { Report, SKIPPED } from "../node/report.ts";

const lines = [
  "::file daemon",
  "bun test v1.4.5 (x)",
  "",
  "daemon.test.js:",
  "noise of the first",
  "(pass) first [1500.00ms]",
  `${SKIPPED} by critest: no reason`,
  "(pass) second [2.00ms]",
  "what went wrong",
  "(fail) third [3000.00ms]",
  " 2 pass",
  "::end daemon 1",
];

const expected = [
  "\ndaemon",
  "  ✓ first  1.5 s",
  "  - second  0.0 s",
  `      ${SKIPPED} by critest: no reason`,
  "  ✗ third  3.0 s",
  "      what went wrong",
];

test("cases are printed as they end, with what a failed one said", () => {
  const printed: string[] = [];
  const report = new Report((line) => printed.push(line));
  for (const line of lines.slice(0, -1)) report.line(line);
  expect(printed).toEqual(expected);
  report.line(lines.at(-1) ?? "");
  expect(report.ended).toEqual(new Map([["daemon", 1]]));
  expect(report.skipped).toBe(1);
});

test("of several machines each file is printed at its end", () => {
  const printed: string[] = [];
  const report = new Report((line) => printed.push(line), false);
  for (const line of lines.slice(0, -1)) report.line(line);
  expect(printed).toEqual([]);
  report.line(lines.at(-1) ?? "");
  expect(printed.slice(0, expected.length)).toEqual(expected);
});
