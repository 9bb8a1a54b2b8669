import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { runFile } from "../runner/bun-file.ts";
import { failuresIn } from "../runner/failures.ts";
import { leftCgroups, testCgroups } from "../runner/leftovers.ts";
import { exitStatus, judge, readJunit, readSummary, summaryLine } from "../runner/result.ts";
import { select, selectFiles } from "../runner/selection.ts";

describe("npm test's arguments", () => {
  test("without any, everything runs", () => {
    expect(select([])).toEqual({
      kinds: ["unit", "integration", "conformance"],
      names: [],
      build: true,
    });
  });

  test("kinds and parts of names are told apart in any order", () => {
    expect(select(["monitor", "integration"])).toEqual({
      kinds: ["integration"],
      names: ["monitor"],
      build: true,
    });
  });

  test("names alone leave conformance out", () => {
    expect(select(["monitor"]).kinds).toEqual(["unit", "integration"]);
  });

  test("--no-build keeps the last build, other options are refused", () => {
    expect(select(["--no-build"]).build).toBe(false);
    expect(() => select(["--fast"])).toThrow("--fast");
  });

  test("files are chosen by kind and by part of the name", () => {
    const files = [
      "test/unit/b.test.ts",
      "test/unit/a.test.ts",
      "test/unit/a.ts",
      "test/integration/a.test.ts",
    ];
    expect(selectFiles(files, "unit", [])).toEqual(["test/unit/a.test.ts", "test/unit/b.test.ts"]);
    expect(selectFiles(files, "unit", ["b"])).toEqual(["test/unit/b.test.ts"]);
  });
});

describe("counting", () => {
  test("the summary names skips only when there are some", () => {
    expect(summaryLine({ passed: 3, failed: 0, skipped: 0 })).toBe("3 passed, 0 failed");
    expect(summaryLine({ passed: 3, failed: 1, skipped: 2 })).toBe("3 passed, 1 failed, 2 skipped");
  });

  test("a failure, or a run of nothing, ends with status 1", () => {
    expect(exitStatus({ passed: 1, failed: 0, skipped: 5 })).toBe(0);
    expect(exitStatus({ passed: 1, failed: 1, skipped: 0 })).toBe(1);
    expect(exitStatus({ passed: 0, failed: 0, skipped: 5 })).toBe(1);
  });

  test("Bun's JUnit report is counted from its root element", () => {
    const xml =
      '<testsuites name="bun test" tests="6" assertions="9" failures="1" skipped="2" time="1">';
    expect(readJunit(`${xml}\n</testsuites>`)).toEqual({ passed: 3, failed: 1, skipped: 2 });
  });

  test("a report that is cut off, or no report, counts as none", () => {
    expect(readJunit('<testsuites tests="6" failures="0" skipped="0">')).toBeUndefined();
    expect(readJunit("")).toBeUndefined();
    expect(judge(undefined, 0)[1]).toEqual(["wrote no report (ended with 0)"]);
  });

  test("a process that fails although no test did is a problem", () => {
    const counts = { passed: 1, failed: 0, skipped: 0 };
    expect(judge(counts, 1)[1]).toEqual(["ended with 1"]);
    expect(judge(counts, 0)[1]).toEqual([]);
  });
});

test("cgroups named crib-test* are found at any of three levels, unless they were there before", () => {
  const root = mkdtempSync(join(tmpdir(), "cg-"));
  for (const path of [
    "crib-test-a",
    "pids/crib-test-b",
    "pids/kube/crib-test-c",
    "pids/kube/pod/crib-test-d",
  ]) {
    mkdirSync(join(root, path), { recursive: true });
  }
  const found = testCgroups(root)
    .map((path) => relative(root, path))
    .sort();
  expect(found).toEqual(["crib-test-a", "pids/crib-test-b", "pids/kube/crib-test-c"]);
  writeFileSync(join(root, "crib-test-a/cgroup.procs"), "0\n");
  const left = leftCgroups([join(root, "pids/crib-test-b")], testCgroups(root));
  expect(left).toEqual([`cgroup: ${join(root, "pids/kube/crib-test-c")}`]);
  rmSync(root, { recursive: true });
});

describe("running one file", () => {
  let directory: string;
  beforeAll(() => {
    // Below test/, where bun test looks for files, and ignored by git.
    mkdirSync(join(import.meta.dir, "../.cache"), { recursive: true });
    directory = mkdtempSync(join(import.meta.dir, "../.cache/runner-"));
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  async function run(code: string) {
    const path = join(directory, "made-up.test.ts");
    writeFileSync(path, `import { expect, test } from "bun:test";\n${code}`);
    return runFile(relative(process.cwd(), path), false);
  }

  test("counts what passed, failed and was skipped, and keeps the output", async () => {
    const result = await run(`
      test("a", () => {});
      test("b", () => expect(1).toBe(2));
      test.skip("c", () => {});`);
    expect(result).toMatchObject({ passed: 1, failed: 1, skipped: 1, problems: [] });
    expect(result.output).toContain("Received: 1");
  });

  test("a file that ends the process counts as failed", async () => {
    const result = await run('test("a", () => {}); test("b", () => process.exit(0));');
    expect(result).toMatchObject({ passed: 0, failed: 1 });
    expect(result.problems[0]).toContain("wrote no report");
  });

  test("a file that throws while loading counts as failed", async () => {
    expect(await run('throw new Error("broken");')).toMatchObject({ passed: 0, failed: 1 });
  });

  test("a process that outlives the file counts as failed and is named", async () => {
    const result = await run(`
      test("a", () => {
        const child = Bun.spawn(["sleep", "20"], { stdio: ["ignore", "ignore", "ignore"], detached: true });
        child.unref();
        console.log("child " + child.pid);
      });`);
    const pid = Number(/child (\d+)/.exec(result.output)?.[1]);
    process.kill(pid, "SIGKILL");
    expect(result).toMatchObject({ passed: 1, failed: 1 });
    expect(result.problems).toEqual([`left process: ${pid} sleep 20`]);
  });
});

test("the last line of a run's output is read as its counts, and nothing else is", () => {
  const counts = { passed: 12, failed: 1, skipped: 3 };
  expect(readSummary(`✓ x 5 passed, 0 failed  1.0 s\n\n${summaryLine(counts)}\n`)).toEqual(counts);
  expect(readSummary("12 passed, 0 failed")).toEqual({ passed: 12, failed: 0, skipped: 0 });
  expect(readSummary("  ✓ x 12 passed, 0 failed\n")).toBeUndefined();
  expect(readSummary("12 passed, 0 failed\nsegmentation fault\n")).toBeUndefined();
  expect(readSummary("")).toBeUndefined();
});

test("what failed is picked out of what a run printed, with its messages", () => {
  const printed = `
unit
  ✓ tar                 3 passed, 0 failed
  ✗ reference           2 passed, 1 failed
      error: expected 1
      (fail) a tag

      in the file's last lines
  ✓ manifest            3 passed, 0 failed
      note: of a test that passed
8 passed, 1 failed`;
  expect(failuresIn(printed)).toEqual([
    "  ✗ reference           2 passed, 1 failed",
    "      error: expected 1",
    "      (fail) a tag",
    "",
    "      in the file's last lines",
  ]);
  expect(failuresIn("making the disk\n\napt-get failed\n0 passed, 1 failed\n")).toEqual([
    "making the disk",
    "apt-get failed",
    "0 passed, 1 failed",
  ]);
});
