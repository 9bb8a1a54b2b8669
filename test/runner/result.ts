/** What came of one test file, one conformance run, or all of them. */
export interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

export interface FileResult extends Counts {
  file: string;
  seconds: number;
  /** Everything the file printed. */
  output: string;
  /** Failures that no test reported: a crash, a hang, something left behind. */
  problems: string[];
}

export function add(a: Counts, b: Counts): Counts {
  return {
    passed: a.passed + b.passed,
    failed: a.failed + b.failed,
    skipped: a.skipped + b.skipped,
  };
}

/** The line that every run ends with; CI and people read it. */
export function summaryLine(counts: Counts): string {
  const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : "";
  return `${counts.passed} passed, ${counts.failed} failed${skipped}`;
}

/** The counts in the last line of what a run printed; undefined when that is no summary. */
export function readSummary(text: string): Counts | undefined {
  const [, passed, failed, skipped = "0"] =
    /(?:^|\n)(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\s*$/.exec(text) ?? [];
  if (passed === undefined || failed === undefined) return undefined;
  return { passed: Number(passed), failed: Number(failed), skipped: Number(skipped) };
}

/** 1 when a test failed or nothing ran at all: a run that tested nothing proves nothing. */
export function exitStatus(counts: Counts): number {
  return counts.failed > 0 || counts.passed === 0 ? 1 : 0;
}

/** Counts from the root element of Bun's JUnit report; undefined when there is none. */
export function readJunit(xml: string): Counts | undefined {
  const root = /<testsuites\b[^>]*>/.exec(xml)?.[0];
  if (root === undefined || !xml.includes("</testsuites>")) return undefined;
  const attribute = (name: string) => Number(new RegExp(`\\b${name}="(\\d+)"`).exec(root)?.[1]);
  const [tests, failed, skipped] = [
    attribute("tests"),
    attribute("failures"),
    attribute("skipped"),
  ];
  if (![tests, failed, skipped].every(Number.isInteger)) return undefined;
  return { passed: tests - failed - skipped, failed, skipped };
}

/**
 * Joins what the report says with how the process ended. Bun writes no report when a file throws
 * while loading or calls `process.exit`, and an error between two tests fails the process only.
 */
export function judge(report: Counts | undefined, status: number | string): [Counts, string[]] {
  if (report === undefined) {
    return [{ passed: 0, failed: 0, skipped: 0 }, [`wrote no report (ended with ${status})`]];
  }
  if (status !== 0 && report.failed === 0) return [report, [`ended with ${status}`]];
  return [report, []];
}
