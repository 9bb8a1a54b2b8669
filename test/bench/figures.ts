/** Figures, budgets and how they are printed. */

/** One line of the report. Times are milliseconds, memory is KiB, the rest is counted. */
export interface Figure {
  name: string;
  unit: "ms" | "KiB" | "count";
  /** The medians of Crib and of what it is compared with; absent = not measured. */
  crib: number | undefined;
  peers: Record<string, number>;
  /** Crib's median may not be larger than this. */
  limit?: { value: number; text: string };
}

/** The p-th percentile (0..100) of at least one value, by nearest rank. */
export function percentile(values: readonly number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const rank = Math.max(0, Math.ceil((p / 100) * sorted.length) - 1);
  return sorted[rank] ?? Number.NaN;
}

export const median = (values: readonly number[]) => percentile(values, 50);

/** How long `body` takes, in milliseconds. */
export async function timed(body: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await body();
  return performance.now() - start;
}

/** Whether the figure holds its budget; undefined when it has none. A figure that is missing fails. */
export function verdict(figure: Figure): boolean | undefined {
  if (figure.limit === undefined) return undefined;
  return figure.crib !== undefined && figure.crib <= figure.limit.value;
}

const number = (value: number | undefined) => (value === undefined ? "-" : value.toFixed(1));

/** The figures as a table: one line each, with the ratio to each peer. */
export function table(figures: readonly Figure[]): string {
  const rows = figures.map((figure) => {
    const result = verdict(figure);
    const peers = Object.entries(figure.peers).map(([name, value]) => {
      const ratio = figure.crib === undefined ? "" : ` (x${(figure.crib / value).toFixed(2)})`;
      return `${name} ${number(value)}${ratio}`;
    });
    return [
      `${figure.name} [${figure.unit}]`,
      number(figure.crib),
      peers.join(", ") || "-",
      figure.limit === undefined ? "-" : `<= ${number(figure.limit.value)} (${figure.limit.text})`,
      result === undefined ? "" : result ? "ok" : "MISSED",
    ];
  });
  const all = [["p50 of", "Crib", "compared with", "budget", ""], ...rows];
  const widths = [0, 1, 2, 3].map((column) =>
    Math.max(...all.map((row) => row[column]?.length ?? 0)),
  );
  return all
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** Samples by what was measured, then by whose. */
export class Samples {
  readonly #values = new Map<string, Map<string, number[]>>();

  add(what: string, whose: string, value: number): void {
    const of = this.#values.get(what) ?? new Map<string, number[]>();
    this.#values.set(what, of);
    of.set(whose, [...(of.get(whose) ?? []), value]);
  }

  medians(what: string): Record<string, number> {
    const of = [...(this.#values.get(what) ?? new Map<string, number[]>())];
    return Object.fromEntries(of.map(([whose, values]) => [whose, median(values)]));
  }

  toJSON() {
    const spread = (values: number[]) => ({
      p50: median(values),
      p90: percentile(values, 90),
      samples: values,
    });
    return Object.fromEntries(
      [...this.#values].map(([what, of]) => [
        what,
        Object.fromEntries([...of].map(([whose, values]) => [whose, spread(values)])),
      ]),
    );
  }
}
