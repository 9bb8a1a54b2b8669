import { expect, test } from "bun:test";
import { hasLabels } from "../../src/cri/labels.ts";

const none = () => {
  throw new Error("nobody needs to look");
};

test("a selector asks for each of its labels", () => {
  const matches = (labels: Record<string, string>, selector?: Record<string, string>) =>
    hasLabels({ labels, hasNotes: true }, selector, none);
  const labels = { a: "1", b: "2" };
  expect(matches(labels)).toBe(true);
  expect(matches(labels, {})).toBe(true);
  expect(matches(labels, { a: "1", b: "2" })).toBe(true);
  expect(matches(labels, { a: "2" })).toBe(false);
  expect(matches(labels, { c: "" })).toBe(false);
  expect(matches({}, { a: "1" })).toBe(false);
});

test("labels that are too long for memory are looked for only where the others fit", () => {
  const kept = { labels: { uid: "u" }, hasNotes: false };
  const whole = () => ({ uid: "u", long: "x" });
  expect(hasLabels(kept, { uid: "u" }, none)).toBe(true);
  expect(hasLabels(kept, { uid: "v", long: "x" }, none)).toBe(false);
  expect(hasLabels(kept, { uid: "u", long: "x" }, whole)).toBe(true);
  expect(hasLabels(kept, { long: "y" }, whole)).toBe(false);
});
