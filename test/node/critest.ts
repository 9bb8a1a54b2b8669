/** In the virtual machine: critest's cases as cases of `bun test`, one group after the other. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import {
  type Case,
  choose,
  focusOf,
  type Judged,
  judge,
  OVER_WEBSOCKET,
  readReport,
} from "../conformance/cases.ts";
import skips from "../conformance/skips.json" with { type: "json" };
import { Crib, cleaned, sh, socket } from "./node.ts";
import { SKIPPED } from "./report.ts";

const directory = "/var/tmp/critest";
const config = `${directory}/crictl.yaml`;
const report = `${directory}/report.json`;
/** What may be skipped on the host, without AppArmor: this kernel has it. */
const mayBeSkipped = Object.fromEntries(
  Object.entries(skips.skipped).filter(([name]) => !name.includes("AppArmor")),
);
const groupTimeoutMs = 60 * 60_000;

function allCases(): Case[] {
  mkdirSync(directory, { recursive: true });
  writeFileSync(config, "");
  sh("critest", "-config", config, "-ginkgo.dry-run", `-ginkgo.json-report=${report}`);
  return readReport(readFileSync(report, "utf8")).cases;
}

/** Runs `cases`; its progress is printed, so that the host sees that something happens. */
async function runCritest(cases: Case[], flags: readonly string[]): Promise<Judged[]> {
  const child = Bun.spawn(
    [
      ...["critest", "-config", config],
      ...["-runtime-endpoint", `unix://${socket}`, "-image-endpoint", `unix://${socket}`],
      ...["-ginkgo.no-color", "-ginkgo.timeout=1h", "-test.timeout=0"],
      ...[`-ginkgo.json-report=${report}`, `-ginkgo.focus=${focusOf(cases)}`, ...flags],
    ],
    { stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, TMPDIR: directory } },
  );
  const decoder = new TextDecoder();
  for await (const chunk of child.stdout) {
    for (const [done] of decoder.decode(chunk).matchAll(/\[[\d.]+ seconds\]$/gm)) console.log(done);
  }
  await child.exited;
  return judge(cases, readReport(readFileSync(report, "utf8")).cases, mayBeSkipped);
}

/** Declares one test for each of `cases`. */
function declareRound(title: string, cases: Case[], flags: readonly string[] = []): void {
  const [{ group } = { group: "" }] = cases;
  describe(title, () => {
    let judged: Judged[] = [];
    beforeAll(async () => {
      judged = await runCritest(cases, flags);
    }, groupTimeoutMs);
    for (const { name } of cases) {
      test(name.replace("[k8s.io] ", "").replace(`${group} `, ""), () => {
        const it = judged.find((one) => one.case.name === name);
        if (it === undefined) throw new Error("critest told nothing of it");
        if (it.verdict === "failed") {
          throw new Error(`${it.reason}\n${it.case.output.split("\n").slice(-30).join("\n")}`);
        }
        if (it.verdict === "skipped") console.log(`${SKIPPED} by critest: ${it.reason}`);
      });
    }
  });
}

/**
 * Declares the tests: those of test/conformance/groups.json with the given settings of [runtime].
 *
 * @param groups only these groups.
 */
export function declareCritest(settings: Record<string, string>, groups?: readonly string[]): void {
  const { chosen } = choose(allCases(), { all: false, focus: undefined });
  const crib = { daemon: undefined as Crib | undefined };

  beforeAll(async () => {
    crib.daemon = await Crib.start({ runtime: settings });
  });

  for (const group of groups ?? new Set(chosen.map((it) => it.group))) {
    const cases = chosen.filter((it) => it.group === group);
    if (cases.length === 0) throw new Error(`critest has no group ${group}`);
    declareRound(group, cases);
    if (group === "Streaming") declareRound("Streaming over WebSocket", cases, OVER_WEBSOCKET);
  }

  test("nothing is left", async () => {
    await crib.daemon?.removeAll();
    expect(await cleaned()).toEqual([]);
  });

  afterAll(async () => {
    await crib.daemon?.removeAll();
  });
}
