/**
 * The tests of real containers once more, with a helper under the address and undefined behaviour
 * sanitizers: an error in its memory ends the monitor, and with it the test. Needs root.
 */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { SANITIZER_REPORTS } from "./monitor-harness.ts";

/** A sanitized monitor is several times slower, and compiled first. */
const LIMIT_MS = 300_000;

/** This file, and the one about memory, of which the sanitizers take much. */
const LEFT_OUT = ["monitor-sanitized.test.ts", "monitor-budgets.test.ts"];

const files = readdirSync(import.meta.dir)
  .filter((name) => name.endsWith(".test.ts") && !LEFT_OUT.includes(name))
  .filter((name) => readFileSync(join(import.meta.dir, name), "utf8").includes("TestPod.start("));

test.each(files)(
  "%s, sanitized",
  (name) => {
    const argv = ["test", `./${join("test/integration", name)}`, "--timeout=120000"];
    const child = Bun.spawnSync([process.execPath, ...argv], {
      cwd: join(import.meta.dir, "../.."),
      env: { ...process.env, CRIB_TEST_SANITIZED: "1" },
      stdout: "pipe",
      stderr: "pipe",
    });
    const reports = new Bun.Glob("*").scanSync({ cwd: SANITIZER_REPORTS, onlyFiles: true });
    const texts = [...reports].map((each) => readFileSync(join(SANITIZER_REPORTS, each), "utf8"));
    rmSync(SANITIZER_REPORTS, { recursive: true, force: true });
    expect(texts).toEqual([]);
    if (child.exitCode !== 0) throw new Error(`${child.stdout}${child.stderr}`.slice(-4000));
  },
  LIMIT_MS,
);
