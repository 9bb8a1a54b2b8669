/** Builds the C tests of the monitor's pure parts under sanitizers and runs them. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { FRAME_LIMIT_BYTES } from "../../src/monitor/frame.ts";
import { Answer, PROTOCOL_VERSION, Request } from "../../src/monitor/protocol.ts";
import { buildSanitized, runSanitized } from "../fixtures/sanitized.ts";

const root = join(import.meta.dir, "../..");

const lines = (name: string, parts: string[]) => runSanitized(buildSanitized(name, parts), []);

test("log records hold under the sanitizers, whatever is lost", () => {
  expect(lines("logs", ["log"]).length).toBe(5);
  expect(lines("losses", ["log"]).length).toBe(8);
}, 60_000);

test("frames and the ring of endings hold under the sanitizers", () => {
  expect(lines("core", ["protocol", "reaped"]).length).toBe(6);
}, 60_000);

test("streams lose no byte under the sanitizers, whatever either side does not take", () => {
  expect(lines("relay", ["relay"]).length).toBe(8);
}, 60_000);

test("the header and its TypeScript mirror name the same numbers", () => {
  const header = readFileSync(join(root, "src/native/protocol.h"), "utf8");
  const value = (name: string) => {
    const match = new RegExp(`\\b${name} = (0x[0-9a-f]+|\\d+(?: << \\d+)?)`).exec(header);
    const [base = "", shift = "0"] = (match?.[1] ?? "none").split(" << ");
    return Number(base) * 2 ** Number(shift);
  };
  expect(value("PROTOCOL_VERSION")).toBe(PROTOCOL_VERSION);
  expect(value("FRAME_LIMIT")).toBe(FRAME_LIMIT_BYTES);
  const upper = (name: string) => name.replace(/[A-Z]/g, "_$&").toUpperCase();
  for (const [name, number] of Object.entries({ ...Request, ...Answer })) {
    expect([name, value(upper(name))]).toEqual([name, number]);
  }
});
