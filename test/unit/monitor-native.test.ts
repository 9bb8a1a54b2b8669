/** Builds the C tests of the monitor's pure parts under sanitizers and runs them. */
import { expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import {
  Answer,
  FRAME_LIMIT_BYTES,
  PROTOCOL_VERSION,
  Request,
} from "../../src/monitor/protocol.ts";

const root = join(import.meta.dir, "../..");

/** Builds a program of test/unit/native with parts of the monitor, sanitized, and gives its output. */
function runSanitized(name: string, parts: string[]): string[] {
  const cache = join(root, "test/.cache/native");
  mkdirSync(cache, { recursive: true });
  const binary = join(cache, `${name}-test`);
  const flags = "-std=c17 -g -O1 -Wall -Wextra -Werror -fno-sanitize-recover=all".split(" ");
  const sources = [`test/unit/native/${name}.c`, ...parts.map((part) => `src/native/${part}.c`)];
  const sanitizers = "-fsanitize=address,undefined";
  const build = spawnSync("clang", [...flags, sanitizers, ...sources, "-o", binary], {
    cwd: root,
    encoding: "utf8",
  });
  expect(build.error).toBeUndefined();
  expect(build.stderr).toBe("");
  const run = spawnSync(binary, { encoding: "utf8" });
  expect(run.stderr).toBe("");
  expect(run.status).toBe(0);
  return run.stdout.trim().split("\n");
}

test("log records hold under the sanitizers, whatever is lost", () => {
  expect(runSanitized("logs", ["log"]).length).toBe(13);
}, 60_000);

test("frames and the ring of endings hold under the sanitizers", () => {
  expect(runSanitized("core", ["protocol", "reaped"]).length).toBe(6);
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
