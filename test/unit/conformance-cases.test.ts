import { describe, expect, test } from "bun:test";
import {
  type Case,
  choose,
  focusOf,
  judge,
  readReport,
  unknownGroups,
} from "../conformance/cases.ts";

function spec(group: string, leaf: string, state = "passed", message = ""): object {
  return {
    ContainerHierarchyTexts: [`[k8s.io] ${group}`],
    LeafNodeType: "It",
    LeafNodeText: leaf,
    State: state,
    RunTime: 1_500_000_000,
    Failure: {
      Message: message,
      Location: { FileName: "/go/pkg/mod/sigs.k8s.io/cri-tools@v1.36.0/pkg/a.go", LineNumber: 7 },
    },
  };
}

function report(...specs: object[]): string {
  return JSON.stringify([{ SuiteConfig: { RandomSeed: 42 }, SpecReports: specs }]);
}

function cases(...specs: object[]): Case[] {
  return readReport(report(...specs)).cases;
}

describe("reading ginkgo's report", () => {
  test("gives each case its full name, group, time and message with its place", () => {
    const { seed, cases } = readReport(report(spec("Networking", "resolves", "failed", "no DNS")));
    expect(seed).toBe(42);
    expect(cases).toEqual([
      {
        name: "[k8s.io] Networking resolves",
        group: "Networking",
        state: "failed",
        seconds: 1.5,
        message: "no DNS\npkg/a.go:7",
        output: "",
      },
    ]);
  });

  test("leaves out what is no case and takes [Conformance] from the group's name", () => {
    const beforeSuite = {
      LeafNodeType: "BeforeSuite",
      LeafNodeText: "",
      State: "passed",
      RunTime: 0,
    };
    const all = cases(beforeSuite, spec("Multiple Containers [Conformance]", "share logs"));
    expect(all.map((it) => it.group)).toEqual(["Multiple Containers"]);
  });

  test("refuses what is not a report", () => {
    expect(() => readReport('[{"SpecReports":[{"State":"passed"}]}]')).toThrow();
    expect(() => readReport("[]")).toThrow("no suite");
  });
});

describe("choosing", () => {
  const listed = cases(
    spec("Container", "runs"),
    spec("Container OOM", "is killed"),
    spec("Checkpoints", "attaches"),
    spec("Container", "benchmark", "skipped"),
  );
  const names = (all: boolean, focus?: RegExp) =>
    choose(listed, { all, focus }, {}).chosen.map((it) => it.name.replace("[k8s.io] ", ""));

  test("takes the groups of groups.json by default, all with --all, and never benchmarks", () => {
    expect(names(false)).toEqual(["Container runs", "Container OOM is killed"]);
    expect(names(true)).toEqual([
      "Container runs",
      "Container OOM is killed",
      "Checkpoints attaches",
    ]);
  });

  test("takes what matches a focus, whatever its group", () => {
    expect(names(false, /Checkpoints|OOM/)).toEqual([
      "Container OOM is killed",
      "Checkpoints attaches",
    ]);
  });

  test("sets excluded cases aside with their reason", () => {
    const exclusions = { "[k8s.io] Container OOM ": "no memory to spare" };
    const { chosen, excluded } = choose(listed, { all: false, focus: undefined }, exclusions);
    expect(chosen.map((it) => it.group)).toEqual(["Container"]);
    expect(excluded.map((it) => [it.verdict, it.reason])).toEqual([
      ["skipped", "no memory to spare"],
    ]);
  });

  test("notices a group that critest does not know", () => {
    expect(unknownGroups(listed)).toContain("Image Manager");
    expect(unknownGroups(listed)).not.toContain("Container");
  });

  test("focuses on exactly the chosen names, with their special characters", () => {
    const focus = new RegExp(focusOf(cases(spec("Container", "stops. [Conformance]"))));
    expect(focus.test("CRI validation [k8s.io] Container stops. [Conformance]")).toBe(true);
    expect(focus.test("CRI validation [k8s.io] Container stops! [Conformance]")).toBe(false);
    expect(focus.test("CRI validation [k8s.io] Container stops. [Conformance] too")).toBe(false);
  });
});

describe("judging", () => {
  const verdictOf = (state: string, message = "", known: Record<string, string> = {}) => {
    const [judged] = judge(
      cases(spec("Container", "runs")),
      cases(spec("Container", "runs", state, message)),
      known,
    );
    return [judged?.verdict, judged?.reason];
  };

  test("a passed case passes", () => {
    expect(verdictOf("passed")).toEqual(["passed", ""]);
  });

  test.each(["failed", "panicked", "timedout", "interrupted", "aborted", "pending"])(
    "a case that ended as %s has failed",
    (state) => {
      expect(verdictOf(state, "why")).toEqual(["failed", "why\npkg/a.go:7"]);
    },
  );

  test("a skip without an entry in skips.json has failed", () => {
    const [verdict, reason] = verdictOf("skipped", "not supported");
    expect(verdict).toBe("failed");
    expect(reason).toContain("skips.json gives no reason: not supported");
  });

  test("a skip with an entry is skipped for the reason there", () => {
    const known = { "[k8s.io] Container ": "this kernel cannot" };
    expect(verdictOf("skipped", "not supported", known)).toEqual(["skipped", "this kernel cannot"]);
  });

  test("a chosen case that did not run has failed", () => {
    const [judged] = judge(cases(spec("Container", "runs")), [], {});
    expect(judged?.verdict).toBe("failed");
  });
});
