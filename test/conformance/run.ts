/**
 * `npm run conformance [-- OPTIONS]`: holds Crib to critest, the suite for CRI runtimes.
 *
 *   --focus RE        only cases whose name matches
 *   --all             every group, not only those of groups.json
 *   --handler NAME    the runtime handler to test (default: the daemon's)
 *   --peer NAME       test containerd, or the runtime behind a socket, instead of Crib
 *   --list            print the chosen cases and stop
 *   --summary FILE    write the counts as JSON
 *   --optional        without Go, skip with a notice instead of failing
 *
 * Everything runs in private namespaces with its own registry, CNI configuration and directories
 * (test/isolate.sh; needs root). Logs and ginkgo's report stay in test/.cache/conformance.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { leftCgroups, testCgroups } from "../runner/leftovers.ts";
import { type Counts, exitStatus, summaryLine } from "../runner/result.ts";
import { type Case, choose, type Judged, readReport, unknownGroups } from "./cases.ts";
import { buildPrograms, cache, GoMissing, output, type Programs } from "./programs.ts";
import type { Answer, Request } from "./request.ts";

const { values: options } = parseArgs({
  options: {
    focus: { type: "string" },
    all: { type: "boolean", default: false },
    handler: { type: "string", default: "" },
    peer: { type: "string" },
    list: { type: "boolean", default: false },
    summary: { type: "string" },
    optional: { type: "boolean", default: false },
  },
});

const logs = join(cache, "conformance");
const crictlConfig = join(logs, "crictl.yaml");

/** The cases that the options choose, from critest's own list. */
function chooseCases(programs: Programs): ReturnType<typeof choose> {
  const report = join(logs, "cases.json");
  const dryRun = ["-ginkgo.dry-run", `-ginkgo.json-report=${report}`];
  output([programs.critest, "-config", crictlConfig, ...dryRun]);
  const { cases } = readReport(readFileSync(report, "utf8"));
  const unknown = unknownGroups(cases);
  if (unknown.length > 0)
    throw new Error(`critest has no group ${unknown.join(", ")} (groups.json)`);
  const focus = options.focus === undefined ? undefined : new RegExp(options.focus);
  const choice = choose(cases, { all: options.all, focus });
  if (choice.chosen.length === 0) throw new Error("no case of critest matches");
  return choice;
}

/** Runs `chosen` in private namespaces and adds what the run left behind to its problems. */
async function runIsolated(programs: Programs, chosen: Case[]): Promise<Answer> {
  const directory = mkdtempSync(join(tmpdir(), "crib-conf-"));
  const requestFile = join(directory, "request.json");
  const answer = join(directory, "answer.json");
  const left = join(directory, "left");
  const cgroups = testCgroups();
  const { handler, peer } = options;
  const request: Request = {
    programs,
    chosen,
    directory,
    logs,
    crictlConfig,
    handler,
    peer,
    answer,
  };
  try {
    writeFileSync(requestFile, JSON.stringify(request));
    const child = Bun.spawn(
      [
        ...["bash", join(import.meta.dir, "../isolate.sh"), "--report", left],
        ...[process.execPath, join(import.meta.dir, "inside.ts"), requestFile],
      ],
      { stdio: ["ignore", "inherit", "inherit"] },
    );
    await child.exited;
    if (!existsSync(answer)) {
      return { judged: [], seed: 0, problems: ["the run ended early: see the messages above"] };
    }
    const result: Answer = JSON.parse(readFileSync(answer, "utf8"));
    const found = existsSync(left) ? readFileSync(left, "utf8").split("\n").filter(Boolean) : [];
    result.problems.push(...found.map((it) => `left ${it}`), ...leftCgroups(cgroups));
    return result;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function print(judged: Judged): void {
  const { name, seconds, output: steps } = judged.case;
  const mark = { passed: "✓", failed: "✗", skipped: "-" }[judged.verdict];
  console.log(`  ${mark} ${name.replace("[k8s.io] ", "")}  ${seconds.toFixed(1)} s`);
  if (judged.verdict === "skipped") console.log(`      skipped: ${judged.reason}`);
  if (judged.verdict === "failed") {
    // gomega prints errors with all their fields; report.json has the rest.
    console.log(
      indent([...judged.reason.split("\n").slice(0, 12), lastLines(steps, 30)].join("\n")),
    );
  }
}

function lastLines(text: string, count: number): string {
  return text.trimEnd().split("\n").slice(-count).join("\n");
}

function indent(text: string): string {
  return text.trimEnd().replaceAll(/^/gm, "      ");
}

async function main(): Promise<Counts> {
  mkdirSync(logs, { recursive: true });
  writeFileSync(crictlConfig, "");
  let programs: Programs;
  try {
    programs = buildPrograms();
  } catch (error) {
    if (!(error instanceof GoMissing)) throw error;
    console.log(`  ${error.message}`);
    return { passed: 0, failed: options.optional ? 0 : 1, skipped: options.optional ? 1 : 0 };
  }
  const { chosen, excluded } = chooseCases(programs);
  if (options.list) {
    for (const it of chosen) console.log(it.name);
    process.exit(0);
  }
  const { judged, seed, problems } = await runIsolated(programs, chosen);
  judged.push(...excluded);
  for (const it of judged) print(it);
  for (const problem of problems) console.log(`  ✗ ${problem}`);
  const count = (verdict: Judged["verdict"]) =>
    judged.filter((it) => it.verdict === verdict).length;
  const failed = count("failed") + (problems.length > 0 ? 1 : 0);
  if (failed > 0) console.log(`  ginkgo's seed ${seed}; logs and report: ${logs}`);
  return { passed: count("passed"), failed, skipped: count("skipped") };
}

let counts: Counts;
try {
  counts = await main();
} catch (error) {
  console.log(`  ${error instanceof Error ? error.message : String(error)}`);
  counts = { passed: 0, failed: 1, skipped: 0 };
}
if (options.summary !== undefined) writeFileSync(options.summary, JSON.stringify(counts));
else console.log(summaryLine(counts));
process.exitCode = exitStatus(counts);
