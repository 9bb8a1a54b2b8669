/**
 * `npm test [-- [--no-build] unit|integration|conformance... NAME...]`: builds Crib, runs each test file in a
 * process of its own (integration tests in private namespaces, so as root), then the conformance
 * set. The last line of stdout is `N passed, N failed` with `, N skipped` when some were.
 */
import { existsSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { kubernetesDescriptors } from "./conformance/contract.ts";
import { buildPrograms, GoMissing } from "./conformance/programs.ts";
import { runFile } from "./runner/bun-file.ts";
import { add, type Counts, exitStatus, type FileResult, summaryLine } from "./runner/result.ts";
import { select, selectFiles } from "./runner/selection.ts";
import { buildStreamingPrograms } from "./streaming/programs.ts";

const repository = join(import.meta.dir, "..");
process.chdir(repository);

async function main(argv: string[]): Promise<number> {
  const selection = select(argv);
  const none: Counts = { passed: 0, failed: 0, skipped: 0 };
  if (selection.build && !(await build())) {
    console.log("the build failed: no test ran");
    console.log(summaryLine({ ...none, failed: 1 }));
    return 1;
  }
  const files = [...new Bun.Glob("test/**/*.test.ts").scanSync()];
  let total = none;
  for (const kind of selection.kinds) {
    if (kind === "conformance") {
      total = add(total, await runConformance());
      continue;
    }
    const chosen = selectFiles(files, kind, selection.names);
    if (chosen.length > 0) console.log(`\n${kind}`);
    if (kind === "integration" && chosen.length > 0 && process.getuid?.() !== 0) {
      console.log("  integration tests make namespaces and mounts: run npm test as root");
      total = add(total, { ...none, failed: 1 });
      continue;
    }
    buildPeers(chosen);
    for (const result of await runFiles(chosen, kind === "integration")) total = add(total, result);
  }
  console.log(`\n${summaryLine(total)}`);
  return exitStatus(total);
}

/** Builds what the tests run: stubs, the helper, dist/crib. Quiet unless it fails. */
async function build(): Promise<boolean> {
  const started = performance.now();
  const child = Bun.spawn([process.execPath, "src/build.ts"], { stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (child.exitCode === 0) {
    console.log(`built in ${seconds((performance.now() - started) / 1000)}`);
    return true;
  }
  console.log(indent([stdout, stderr].filter(Boolean).join("\n")));
  return false;
}

/**
 * Builds what test files compare Crib with or talk to it through. A test has no time to download, and an
 * integration test no network. Without Go they skip.
 */
function buildPeers(files: string[]): void {
  const some = (name: string) => files.some((file) => file.includes(name));
  try {
    if (some("contract-descriptors")) kubernetesDescriptors();
    if (some("integration/streaming")) {
      buildPrograms();
      buildStreamingPrograms();
    }
  } catch (error) {
    if (!(error instanceof GoMissing)) throw error;
    console.log(`  ${error.message}`);
  }
}

/**
 * Unit tests share nothing and run side by side; integration tests run one by one, because
 * cgroups and the kernel's limits belong to the whole machine.
 */
async function runFiles(files: string[], isolated: boolean): Promise<FileResult[]> {
  const waiting = [...files];
  const results: FileResult[] = [];
  const worker = async () => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
      const result = await runFile(file, isolated);
      results.push(result);
      print(result);
    }
  };
  const workers = isolated ? 1 : availableParallelism();
  await Promise.all(Array.from({ length: workers }, worker));
  return results;
}

function print(result: FileResult): void {
  const mark = result.failed > 0 ? "✗" : "✓";
  const name = result.file.replace(/^test\/(\w+)\//, "").replace(/\.test\.ts$/, "");
  console.log(`  ${mark} ${name.padEnd(36)} ${summaryLine(result)}  ${seconds(result.seconds)}`);
  if (result.failed === 0) return;
  for (const problem of result.problems) console.log(`      ${problem}`);
  const passed = /^\(pass\) .*\n/gm;
  console.log(indent(result.output.replaceAll(passed, "")));
}

/** Runs the conformance set in its own process and takes its counts from the file it writes. */
async function runConformance(): Promise<Counts> {
  const summary = join(tmpdir(), `crib-conformance-${process.pid}.json`);
  console.log("\nconformance");
  const child = Bun.spawn(
    [process.execPath, "test/conformance/run.ts", "--summary", summary, "--optional"],
    { stdout: "inherit", stderr: "inherit" },
  );
  const status = await child.exited;
  try {
    if (existsSync(summary)) return JSON.parse(readFileSync(summary, "utf8"));
  } finally {
    rmSync(summary, { force: true });
  }
  console.log(`  conformance ended with ${status} and wrote no summary`);
  return { passed: 0, failed: 1, skipped: 0 };
}

function indent(text: string): string {
  return text.trimEnd().replaceAll(/^/gm, "      ");
}

function seconds(value: number): string {
  return `${value.toFixed(1)} s`;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.log(error instanceof Error ? error.message : String(error));
  console.log(summaryLine({ passed: 0, failed: 1, skipped: 0 }));
  process.exitCode = 1;
}
