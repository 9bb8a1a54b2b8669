import type { Metric } from "../observe/metric.ts";
import type { SessionView } from "./server.ts";

/** What the streaming server tells of itself. */
export function streamingMetrics(sessions: () => readonly SessionView[]): Metric[] {
  return [
    {
      name: "crib_streaming_sessions",
      help: "Clients of exec, attach and port-forward that are connected.",
      type: "gauge",
      labels: ["kind"],
      read: () =>
        (["exec", "attach", "portforward"] as const).map((kind) => ({
          labels: { kind },
          value: sessions().filter((session) => session.kind === kind).length,
        })),
    },
  ];
}
