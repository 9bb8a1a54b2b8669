import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { leftCgroups, markedProcesses, runMarker, testCgroups } from "./leftovers.ts";
import { type FileResult, judge, readJunit } from "./result.ts";

/** For one test, unless it asks for another; no test is about time. */
const testTimeoutMs = 60_000;

/** A hanging file is killed after this time, whatever the time limits of its tests. */
const fileTimeoutMs = 15 * 60_000;

/** Cgroups and dying processes may need a moment after the tests ended. */
const leftoverPatienceMs = 3_000;

/**
 * Runs one test file in a process of its own with its own TMPDIR (short, for socket paths), which
 * is deleted afterwards. `isolated` puts it in private namespaces (test/isolate.sh; needs root).
 */
export async function runFile(file: string, isolated: boolean): Promise<FileResult> {
  const started = performance.now();
  const directory = mkdtempSync(join(tmpdir(), "ct-"));
  const runId = directory;
  const cgroupsBefore = isolated ? testCgroups() : [];
  const junit = join(directory, "junit.xml");
  const left = join(directory, "left");
  const bun = [
    process.execPath,
    "test",
    `./${file}`,
    "--reporter=junit",
    `--timeout=${testTimeoutMs}`,
  ];
  const isolate = isolated
    ? ["bash", join(import.meta.dir, "../isolate.sh"), "--report", left]
    : [];
  const child = Bun.spawn([...isolate, ...bun, `--reporter-outfile=${junit}`], {
    env: { ...process.env, TMPDIR: join(directory), [runMarker]: runId, FORCE_COLOR: "0" },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: fileTimeoutMs,
    killSignal: "SIGKILL",
  });
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  const [counts, problems] = judge(
    readJunit(readOrEmpty(junit)),
    child.signalCode ?? child.exitCode ?? "no status",
  );
  problems.push(
    ...(await settle(() => [
      ...markedProcesses(runId),
      ...(isolated ? leftCgroups(cgroupsBefore) : []),
    ])),
  );
  problems.push(...readOrEmpty(left).split("\n").filter(Boolean));
  rmSync(directory, { recursive: true, force: true });
  return {
    ...counts,
    failed: counts.failed + (problems.length > 0 ? 1 : 0),
    file,
    seconds: (performance.now() - started) / 1000,
    output: [stderr, stdout].filter(Boolean).join("\n"),
    problems,
  };
}

/**
 * What `look` still finds when it has had some time to find nothing. Nothing must be found twice: a process
 * that was just made has no environment to be recognised by until the kernel has loaded its program.
 */
async function settle(look: () => string[]): Promise<string[]> {
  const deadline = performance.now() + leftoverPatienceMs;
  for (let nothing = 0; ; ) {
    const found = look();
    nothing = found.length === 0 ? nothing + 1 : 0;
    if (nothing === 2 || performance.now() > deadline) return found.map((it) => `left ${it}`);
    await Bun.sleep(50);
  }
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // not written: the test process died first
  }
}
