/**
 * A metric as the rooms declare them: they count for themselves, and are asked when somebody looks.
 * Names as Prometheus wants them: `crib_` first, the unit last, `_total` for counters.
 */
export interface Metric {
  name: string;
  help: string;
  type: "counter" | "gauge";
  labels?: readonly string[];
  /** One value for each set of labels; none where there is nothing to tell. */
  read(): Iterable<{ labels?: Record<string, string>; value: number }>;
}
