import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { checkImports, importsOf } from "../fixtures/imports.ts";

const repository = join(import.meta.dir, "../..");

function check(files: Record<string, string>): string[] {
  return checkImports(new Map(Object.entries(files)));
}

test("src follows the room order and has no cycles", () => {
  const files = [...new Bun.Glob("src/**/*.ts").scanSync({ cwd: repository })];
  expect(files.length).toBeGreaterThan(10);
  const read = (file: string) => readFileSync(join(repository, file), "utf8");
  expect(checkImports(new Map(files.map((file) => [file, read(file)])))).toEqual([]);
});

describe("the check itself", () => {
  test("accepts imports that go down, sideways, and to what all may use", () => {
    const files = {
      "src/main.ts": 'await import("./cli/serve.ts");',
      "src/cli/serve.ts": 'import { serve } from "../cri/server.ts";',
      "src/cri/server.ts": 'import { Server } from "@grpc/grpc-js";',
      "src/pod/run.ts": 'import { create } from "../container/create.ts";\nimport "../error.ts";',
      "src/container/create.ts": 'import type { Pod } from "../gen/runtime/v1/pod_pb.ts";',
      "src/error.ts": "",
      "src/version.ts": 'import { version } from "../package.json";',
      "src/monitor/binary.ts": 'import path from "../../dist/native/crib-monitor";',
      "src/linux/libc.ts": 'import { dlopen } from "bun:ffi";',
    };
    expect(check(files)).toEqual([]);
  });

  test.each([
    ["upwards", "src/state/database.ts", 'import { run } from "../pod/run.ts";', "above it"],
    [
      "upwards for a type",
      "src/linux/mount.ts",
      'import type { Pod } from "../pod/pod.ts";',
      "above",
    ],
    ["upwards by re-export", "src/observe/log.ts", 'export { x } from "../config/x.ts";', "above"],
    ["upwards lazily", "src/image/pull.ts", 'await import("../cli/serve.ts")', "above it"],
    ["from src/main.ts", "src/cli/serve.ts", 'import "../main.ts";', "above it"],
    ["from an unknown room", "src/cli/a.ts", 'import "../attic/b.ts";', "no room"],
    ["from an unknown room of its own", "src/attic/a.ts", 'import "../linux/b.ts";', "no room"],
    ["tests", "src/cli/serve.ts", 'import "../../test/fixtures/x.ts";', "outside of src"],
    ["a room from error.ts", "src/error.ts", 'import "./linux/libc.ts";', "everyone imports it"],
    ["bun:ffi outside of linux", "src/storage/a.ts", 'import { ptr } from "bun:ffi";', "bun:ffi"],
    ["files in cri", "src/cri/a.ts", 'import { readFile } from "node:fs/promises";', "fs/promises"],
    ["processes in cri", "src/cri/a.ts", 'import { spawn } from "child_process";', "child_process"],
    ["Bun's files in streaming", "src/streaming/a.ts", "Bun.file(path)", "Bun's files"],
    ["Bun's processes in cadvisor", "src/cadvisor/a.ts", "Bun.spawn([])", "Bun's files"],
  ])("refuses %s", (_, file, text, reason) => {
    const problems = check({ [file]: text });
    expect(problems).toHaveLength(1);
    expect(problems[0]).toStartWith(`${file}: `);
    expect(problems[0]).toContain(reason);
  });

  test("finds a cycle between files, also through types, and names it", () => {
    const files = {
      "src/pod/a.ts": 'import { b } from "./b.ts";',
      "src/pod/b.ts": 'import type { C } from "../container/c.ts";',
      "src/container/c.ts": 'import {\n  a,\n} from "../pod/a.ts";',
    };
    expect(check(files)).toEqual([
      "cycle: src/pod/a.ts → src/pod/b.ts → src/container/c.ts → src/pod/a.ts",
    ]);
  });

  test("does not take comments for imports, nor miss an import after a string with //", () => {
    const code = [
      '// import { a } from "./commented.ts";',
      '/* import "./blocked.ts"; */',
      'const url = "https://example.test/"; import { b } from "../cli/real.ts";',
    ].join("\n");
    expect(check({ "src/linux/a.ts": code })).toEqual([
      "src/linux/a.ts: imports src/cli/real.ts, which is above it",
    ]);
  });

  test("reads every form of import", () => {
    const code = [
      'import a from "1";',
      'import { b,\n c } from "2";',
      'import "3";',
      'export * from "4";',
      'export type { d } from "5";',
      'const e = await import("6");',
      'import p from "7" with { type: "file" };',
    ].join("\n");
    expect(importsOf(code).sort()).toEqual(["1", "2", "3", "4", "5", "6", "7"]);
  });
});
