/**
 * `npm run test:node [-- OPTIONS] [NAME...]`: Crib on a real node. Boots a Debian with systemd and
 * cgroup v2 under qemu and runs the test files of this directory in it.
 *
 *   NAME...        only these files, or those whose name holds one; "all" is all; default: what CI runs
 *   -t RE          only cases whose name matches
 *   --machines N   that many machines side by side (default 1)
 *   --list         print the files, a line a machine, and stop
 *   --no-build     test the last build
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
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { buildPrograms, cache, output, repository } from "../conformance/programs.ts";
import { registriesConf } from "../conformance/registry.ts";
import { add, type Counts, exitStatus, judge, readJunit, summaryLine } from "../runner/result.ts";
import { buildStreamingPrograms } from "../streaming/programs.ts";
import { buildDebian, type Debian } from "./debian.ts";
import { makeDisk, readDirectory } from "./disk.ts";
import { runMachine } from "./machine.ts";
import { layered } from "./node.ts";
import { buildKubelet, bundleCases } from "./programs.ts";
import { Report } from "./report.ts";
import { chooseFiles, shareOut } from "./shards.ts";

/** For one case, unless it asks for another, and for one file. */
const caseTimeoutMs = 5 * 60_000;
const fileTimeoutSeconds = 90 * 60;
const silenceMs = 15 * 60_000;

/** What happens to the machine before a file runs. */
const before: Record<string, string> = {
  "reboot-2-orderly": "!reboot",
  "reboot-3-cut": `!cut ${layered}`,
};

const { values: options, positionals: words } = parseArgs({
  options: {
    t: { type: "string", short: "t" },
    machines: { type: "string", default: "1" },
    list: { type: "boolean", default: false },
    "no-build": { type: "boolean", default: false },
  },
  allowPositionals: true,
});

const logs = join(cache, "node/logs");

async function timed<T>(what: string, work: () => T | Promise<T>): Promise<T> {
  const started = performance.now();
  const result = await work();
  const seconds = (performance.now() - started) / 1000;
  if (seconds > 2) console.log(`${what}: ${seconds.toFixed(0)} s`);
  return result;
}

/** What every machine gets: the product, kubelet, critest, images. Takes minutes the first time. */
async function makeContent(content: string): Promise<void> {
  for (const name of ["bin", "logs", "cases"]) mkdirSync(join(content, name), { recursive: true });
  copyFileSync(join(repository, "dist/crib"), join(content, "bin/crib"));
  copyFileSync(process.execPath, join(content, "bin/bun"));
  copyFileSync(await timed("kubelet", buildKubelet), join(content, "bin/kubelet"));
  const programs = await timed("critest", buildPrograms);
  copyFileSync(programs.crictl, join(content, "bin/crictl"));
  copyFileSync(programs.critest, join(content, "bin/critest"));
  const { client } = await timed("streaming client", buildStreamingPrograms);
  copyFileSync(client, join(content, "bin/streaming-client"));
  cpSync(join(import.meta.dir, "guest"), join(content, "guest"), { recursive: true });
  writeFileSync(join(content, "guest/registries.conf"), registriesConf());
  const registry = ["bash", "test/isolate.sh", process.execPath, "test/node/registry.ts"];
  const images = (await timed("images", () => output(registry))).trim();
  cpSync(images, join(content, "registry"), { recursive: true });
}

/** The second disk of one machine: `content` and its test files. */
async function makeCases(files: string[], content: string, disk: string): Promise<void> {
  const cases = join(content, "cases");
  rmSync(cases, { recursive: true });
  await bundleCases(files, cases);
  const lines = files.flatMap((file) => [before[file] ?? [], file].flat());
  writeFileSync(join(cases, "list"), `${lines.join("\n")}\n`);
  writeFileSync(join(cases, "next"), "0\n");
  writeFileSync(join(cases, "file-timeout-seconds"), String(fileTimeoutSeconds));
  const testOptions = [`--timeout=${caseTimeoutMs}`, ...(options.t ? ["-t", options.t] : [])];
  writeFileSync(join(cases, "options"), `${testOptions.join("\n")}\n`);
  makeDisk(content, disk, "2G");
}

/** Counts of a file by its JUnit report, as in test/run.ts. */
function countsOf(file: string, status: number | undefined): Counts {
  const xml = join(logs, `${file}.xml`);
  const report = existsSync(xml) ? readJunit(readFileSync(xml, "utf8")) : undefined;
  const [counts, problems] = judge(report, status ?? "no end");
  for (const problem of problems) console.log(`  ✗ ${file} ${problem}`);
  return { ...counts, failed: counts.failed + problems.length };
}

/** Boots a machine as often as its cases ask for it. */
async function runToTheEnd(debian: Debian, shard: Shard, report: Report) {
  for (let boot = 1; ; boot += 1) {
    const ending = await runMachine({
      ...debian,
      disks: shard.disks,
      processors: shard.processors,
      console: join(logs, `console-${shard.name}-${boot}.log`),
      silenceMs,
      onLine: (line) => report.line(line),
    });
    if (ending !== "boot") return ending;
  }
}

interface Shard {
  name: string;
  files: string[];
  directory: string;
  disks: string[];
  processors: number;
}

/**
 * Of each machine. Two at most, and no more than there really are: one that waits for the host makes the
 * other, which spins on its locks, slow (two machines with two on two took a fifth longer).
 */
const processorsEach = (machines: number) =>
  Math.max(1, Math.min(2, Math.floor(availableParallelism() / machines)));

/** Runs the files of one machine. */
async function runShard(debian: Debian, shard: Shard, alone: boolean): Promise<Counts> {
  const { name, files, directory, disks } = shard;
  const report = new Report((line) => console.log(line), alone);
  const ending = await timed(`machine ${name}, ${files.length} files`, () =>
    runToTheEnd(debian, shard, report),
  );
  report.flush();
  readDirectory(disks[1] ?? "", "/logs", directory);
  cpSync(join(directory, "logs"), logs, { recursive: true });
  let total: Counts = { passed: 0, failed: 0, skipped: 0 };
  for (const file of files) total = add(total, countsOf(file, report.ended.get(file)));
  total = add(total, { passed: -report.skipped, failed: 0, skipped: report.skipped });
  if (typeof ending === "object") {
    console.log(`  ✗ ${ending.problem}`);
    total = add(total, { passed: 0, failed: 1, skipped: 0 });
  }
  return total;
}

async function prepare(shards: string[][], debian: Debian, directory: string): Promise<Shard[]> {
  const content = join(directory, "content");
  await makeContent(content);
  const prepared: Shard[] = [];
  const processors = processorsEach(shards.length);
  for (const [index, files] of shards.entries()) {
    const own = join(directory, String(index + 1));
    const disks = [join(own, "root.img"), join(own, "cases.img")] as const;
    mkdirSync(own);
    output(["cp", "--sparse=always", debian.disk, disks[0]]);
    await makeCases(files, content, disks[1]);
    prepared.push({
      name: String(index + 1),
      files,
      directory: own,
      disks: [...disks],
      processors,
    });
  }
  rmSync(content, { recursive: true });
  return prepared;
}

async function main(): Promise<Counts> {
  const all = [...new Bun.Glob("*.test.ts").scanSync(import.meta.dir)];
  const files = chooseFiles(
    all.map((it) => it.replace(/\.test\.ts$/, "")),
    words,
  );
  const machines = Number(options.machines);
  if (!(machines >= 1)) throw new Error(`--machines ${options.machines}: is no number above 0`);
  const shards = shareOut(files, machines);
  if (options.list) {
    for (const shard of shards) console.log(shard.join(" "));
    process.exit(0);
  }
  if (files.length === 0) throw new Error(`no file in test/node is named like ${words.join(", ")}`);
  process.chdir(repository);
  if (!options["no-build"]) await timed("build", () => output([process.execPath, "src/build.ts"]));
  rmSync(logs, { recursive: true, force: true });
  mkdirSync(logs, { recursive: true });
  const directory = mkdtempSync(join(tmpdir(), "crib-vm-"));
  // Also when the tests are ended.
  process.once("exit", () => rmSync(directory, { recursive: true, force: true }));
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));
  const debian = await timed("Debian", buildDebian);
  const prepared = await prepare(shards, debian, directory);
  const alone = prepared.length === 1;
  let total: Counts = { passed: 0, failed: 0, skipped: 0 };
  for (const counts of await Promise.all(prepared.map((shard) => runShard(debian, shard, alone)))) {
    total = add(total, counts);
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
