import { expect, test } from "bun:test";
import { type HttpResponse, redirectTarget } from "../../src/image/http.ts";

const answer = (url: string, location: string): HttpResponse => ({
  status: 302,
  headers: new Headers({ Location: location }),
  url,
  async *chunks() {},
  discard() {},
});

const plainAllowed = (host: string) => host === "plain.io";

test.each([
  ["https://a.io/x", "https://b.io/y", "https://b.io/y"],
  ["https://a.io/x", "/y", "https://a.io/y"],
  ["http://a.io/x", "http://b.io/y", "http://b.io/y"],
  ["http://a.io/x", "https://b.io/y", "https://b.io/y"],
  ["https://a.io/x", "http://plain.io/y", "http://plain.io/y"],
])("%s may send its caller to %s", (from, to, target) => {
  expect(redirectTarget(answer(from, to), plainAllowed, "a.io")).toBe(target);
});

test.each([
  ["https://a.io/x", "http://b.io/y"],
  ["https://a.io/x", "http://a.io/x"],
  ["http://a.io/x", "file:///etc/passwd"],
  ["http://a.io/x", "unix:/run/x.sock"],
  ["http://a.io/x", "data:,x"],
  ["http://a.io/x", "http://["],
])("%s may not send its caller to %s", (from, to) => {
  expect(() => redirectTarget(answer(from, to), plainAllowed, "a.io")).toThrow(
    "a.io: redirects to",
  );
});
