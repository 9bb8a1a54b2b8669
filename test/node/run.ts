/**
 * `npm run test:node [-- OPTIONS] [NAME...]`: Crib on a real node. Boots a Debian with systemd and
 * cgroup v2 under qemu and runs the test files of this directory in it.
 *
 *   NAME...      only files whose name holds one of these; files critest-* run only when they are named
 *   -t RE        only cases whose name matches
 *   --list       print the files and stop
 *   --no-build   test the last build
 *
 * Disk, kubelet and images are made once and kept in test/.cache/node. The last line of stdout is
 * `N passed, N failed`; after a failure the logs stay in the directory that is printed.
 */
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { buildPrograms, cache, output, repository } from "../conformance/programs.ts";
import { registriesConf } from "../conformance/registry.ts";
import { add, type Counts, exitStatus, judge, readJunit, summaryLine } from "../runner/result.ts";
import { buildDebian, type Debian } from "./debian.ts";
import { makeDisk, readDirectory } from "./disk.ts";
import { type Ending, runMachine } from "./machine.ts";
import { buildKubelet, bundleCases } from "./programs.ts";
import { Report } from "./report.ts";

/** For one case, unless it asks for another, and for one file. */
const caseTimeoutMs = 5 * 60_000;
const fileTimeoutSeconds = 90 * 60;
const silenceMs = 15 * 60_000;

/** What happens to the machine before a file runs. */
const before: Record<string, "!reboot" | "!cut"> = {
  "reboot-2-orderly": "!reboot",
  "reboot-3-cut": "!cut",
};

const { values: options, positionals: words } = parseArgs({
  options: {
    t: { type: "string", short: "t" },
    list: { type: "boolean", default: false },
    "no-build": { type: "boolean", default: false },
  },
  allowPositionals: true,
});

const logs = join(cache, "node/logs");

/** Names of the test files to run, without ".test.ts". */
function chooseFiles(): string[] {
  const all = [...new Bun.Glob("*.test.ts").scanSync(import.meta.dir)]
    .map((it) => it.replace(/\.test\.ts$/, ""))
    .sort();
  if (words.length === 0) return all.filter((it) => !it.startsWith("critest-"));
  return all.filter((it) => words.some((word) => it.includes(word)));
}

async function timed<T>(what: string, work: () => T | Promise<T>): Promise<T> {
  const started = performance.now();
  const result = await work();
  const seconds = (performance.now() - started) / 1000;
  if (seconds > 2) console.log(`${what}: ${seconds.toFixed(0)} s`);
  return result;
}

/** Fills the second disk. */
async function makeCases(files: string[], directory: string): Promise<string> {
  const content = join(directory, "content");
  for (const name of ["bin", "logs", "cases"]) mkdirSync(join(content, name), { recursive: true });
  copyFileSync(join(repository, "dist/crib"), join(content, "bin/crib"));
  copyFileSync(process.execPath, join(content, "bin/bun"));
  copyFileSync(await timed("kubelet", buildKubelet), join(content, "bin/kubelet"));
  const programs = await timed("critest", buildPrograms);
  copyFileSync(programs.crictl, join(content, "bin/crictl"));
  copyFileSync(programs.critest, join(content, "bin/critest"));
  cpSync(join(import.meta.dir, "guest"), join(content, "guest"), { recursive: true });
  writeFileSync(join(content, "guest/registries.conf"), registriesConf());
  const registry = ["bash", "test/isolate.sh", process.execPath, "test/node/registry.ts"];
  const images = (await timed("images", () => output(registry))).trim();
  cpSync(images, join(content, "registry"), { recursive: true });
  const cases = join(content, "cases");
  await bundleCases(files, cases);
  const lines = files.flatMap((file) => [before[file] ?? [], file].flat());
  writeFileSync(join(cases, "list"), `${lines.join("\n")}\n`);
  writeFileSync(join(cases, "next"), "0\n");
  writeFileSync(join(cases, "file-timeout-seconds"), String(fileTimeoutSeconds));
  const testOptions = [`--timeout=${caseTimeoutMs}`, ...(options.t ? ["-t", options.t] : [])];
  writeFileSync(join(cases, "options"), `${testOptions.join("\n")}\n`);
  const disk = join(directory, "cases.img");
  makeDisk(content, disk, "2G");
  rmSync(content, { recursive: true });
  return disk;
}

/** Counts of a file by its JUnit report, as in test/run.ts. */
function countsOf(file: string, status: number | undefined): Counts {
  const xml = join(logs, `${file}.xml`);
  const report = existsSync(xml) ? readJunit(readFileSync(xml, "utf8")) : undefined;
  const [counts, problems] = judge(report, status ?? "no end");
  for (const problem of problems) console.log(`  ✗ ${file} ${problem}`);
  return { ...counts, failed: counts.failed + problems.length };
}

/** Boots the machine as often as the cases ask for it. */
async function runToTheEnd(debian: Debian, disks: string[], report: Report): Promise<Ending> {
  for (let boot = 1; ; boot += 1) {
    const ending = await runMachine({
      ...debian,
      disks,
      console: join(logs, `console-${boot}.log`),
      silenceMs,
      onLine: (line) => report.line(line),
    });
    if (ending !== "boot") return ending;
  }
}

async function main(): Promise<Counts> {
  let total: Counts = { passed: 0, failed: 0, skipped: 0 };
  const files = chooseFiles();
  if (options.list) {
    for (const file of files) console.log(file);
    process.exit(0);
  }
  if (files.length === 0) throw new Error(`no file in test/node is named like ${words.join(", ")}`);
  process.chdir(repository);
  if (!options["no-build"]) await timed("build", () => output([process.execPath, "src/build.ts"]));
  rmSync(logs, { recursive: true, force: true });
  mkdirSync(logs, { recursive: true });
  const directory = mkdtempSync(join(tmpdir(), "crib-vm-"));
  try {
    const debian = await timed("Debian", buildDebian);
    const root = join(directory, "root.img");
    output(["cp", "--sparse=always", debian.disk, root]);
    const disk = await makeCases(files, directory);
    const report = new Report((line) => console.log(line));
    const ending = await timed("the machine ran for", () =>
      runToTheEnd(debian, [root, disk], report),
    );
    readDirectory(disk, "/logs", directory);
    cpSync(join(directory, "logs"), logs, { recursive: true });
    for (const file of files) total = add(total, countsOf(file, report.ended.get(file)));
    if (typeof ending === "object") {
      console.log(`  ✗ ${ending.problem}`);
      total = add(total, { passed: 0, failed: 1, skipped: 0 });
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
  if (total.failed > 0) console.log(`\nlogs (console, journal and pods of each file): ${logs}`);
  return total;
}

let counts: Counts;
try {
  counts = await main();
} catch (error) {
  console.log(error instanceof Error ? error.message : String(error));
  counts = { passed: 0, failed: 1, skipped: 0 };
}
console.log(summaryLine(counts));
process.exitCode = exitStatus(counts);
