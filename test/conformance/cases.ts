/** Which of critest's cases count, and what became of them. */
import * as v from "valibot";
import groups from "./groups.json" with { type: "json" };
import skips from "./skips.json" with { type: "json" };

const Report = v.array(
  v.object({
    SuiteConfig: v.object({ RandomSeed: v.number() }),
    SpecReports: v.array(
      v.object({
        ContainerHierarchyTexts: v.nullish(v.array(v.string()), []),
        LeafNodeType: v.string(),
        LeafNodeText: v.string(),
        State: v.string(),
        RunTime: v.number(),
        CapturedGinkgoWriterOutput: v.optional(v.string(), ""),
        Failure: v.optional(
          v.object({
            Message: v.optional(v.string(), ""),
            Location: v.optional(
              v.object({
                FileName: v.optional(v.string(), ""),
                LineNumber: v.optional(v.number(), 0),
              }),
            ),
          }),
        ),
      }),
    ),
  }),
);

/** One case of critest. */
export interface Case {
  /** All texts from the outermost container to the leaf, as ginkgo matches them. */
  name: string;
  /** The outermost container without "[k8s.io]" and "[Conformance]": what groups.json names. */
  group: string;
  state: string;
  seconds: number;
  /** Why it failed or skipped, with the place in cri-tools. */
  message: string;
  /** Its steps and messages. */
  output: string;
}

export type Verdict = "passed" | "failed" | "skipped";

export interface Judged {
  case: Case;
  verdict: Verdict;
  /** Why, for what did not pass. */
  reason: string;
}

/** skips.json. A key is the beginning of a case's full name, so that one reason serves a group. */
export interface Skips {
  /** Cases that critest itself may skip, and why it does so on some host. */
  skipped: Record<string, string>;
  /** Cases that we do not run, and why. */
  excluded: Record<string, string>;
}

const committedSkips: Skips = skips;

/** Reads ginkgo's JSON report; throws when it is not one. */
export function readReport(json: string): { seed: number; cases: Case[] } {
  const [suite] = v.parse(Report, JSON.parse(json));
  if (suite === undefined) throw new Error("ginkgo's report holds no suite");
  const cases = suite.SpecReports.filter((it) => it.LeafNodeType === "It").map((it): Case => {
    const texts = it.ContainerHierarchyTexts ?? [];
    const place = it.Failure?.Location;
    const file = place?.FileName?.replace(/^.*\/cri-tools[^/]*\//, "");
    return {
      name: [...texts, it.LeafNodeText].join(" "),
      group: groupOf(texts[0] ?? ""),
      state: it.State,
      seconds: it.RunTime / 1e9,
      message: [it.Failure?.Message, file && `${file}:${place?.LineNumber}`]
        .filter(Boolean)
        .join("\n"),
      output: it.CapturedGinkgoWriterOutput,
    };
  });
  return { seed: suite.SuiteConfig.RandomSeed, cases };
}

function groupOf(text: string): string {
  return text.replace("[k8s.io] ", "").replace(" [Conformance]", "");
}

export interface Choice {
  /** Every group, not only those of groups.json. */
  all: boolean;
  /** Only cases whose name matches. */
  focus: RegExp | undefined;
}

/**
 * Splits a dry run's list (in which benchmarks are "skipped") into the cases that shall run and
 * those that skips.json excludes, which count as skipped.
 */
export function choose(
  cases: Case[],
  choice: Choice,
  exclusions = committedSkips.excluded,
): { chosen: Case[]; excluded: Judged[] } {
  const wanted = cases
    .filter((it) => it.state !== "skipped")
    .filter((it) => choice.all || choice.focus !== undefined || groups.includes(it.group))
    .filter((it) => choice.focus?.test(it.name) ?? true);
  const excluded = wanted.flatMap((it): Judged[] => {
    const reason = reasonFor(it, exclusions);
    return reason === undefined ? [] : [{ case: it, verdict: "skipped", reason }];
  });
  return { chosen: wanted.filter((it) => reasonFor(it, exclusions) === undefined), excluded };
}

function reasonFor(it: Case, reasons: Record<string, string>): string | undefined {
  return Object.entries(reasons).find(([beginning]) => it.name.startsWith(beginning))?.[1];
}

/** Groups that groups.json names and critest does not know: a typing error, or they were renamed. */
export function unknownGroups(cases: Case[]): string[] {
  return groups.filter((group) => !cases.some((it) => it.group === group));
}

/**
 * Judges the run of `chosen`: a skip needs an entry in skips.json, because a missing feature shows
 * as a skip; a chosen case that did not run has failed.
 */
export function judge(chosen: Case[], ran: Case[], known = committedSkips.skipped): Judged[] {
  const byName = new Map(ran.map((it) => [it.name, it]));
  return chosen.map((wanted): Judged => {
    const it = byName.get(wanted.name);
    if (it === undefined)
      return { case: wanted, verdict: "failed", reason: "is not in the report" };
    if (it.state === "passed") return { case: it, verdict: "passed", reason: "" };
    if (it.state !== "skipped") {
      return { case: it, verdict: "failed", reason: it.message || `ended as ${it.state}` };
    }
    if (it.message === "") return { case: it, verdict: "failed", reason: "did not run" };
    const reason = reasonFor(it, known);
    if (reason !== undefined) return { case: it, verdict: "skipped", reason };
    return {
      case: it,
      verdict: "failed",
      reason: `skipped, and skips.json gives no reason: ${it.message}`,
    };
  });
}

/** Options of critest for its group Streaming, which by itself takes SPDY. */
export const OVER_WEBSOCKET = ["-websocket-exec", "-websocket-attach", "-websocket-portforward"];

/** A regular expression for ginkgo's --focus that matches the names of `cases` and nothing else. */
export function focusOf(cases: Case[]): string {
  const literal = (text: string) => text.replaceAll(/[\\^$.*+?()[\]{}|]/g, "\\$&");
  return `(${cases.map((it) => literal(it.name)).join("|")})$`;
}
