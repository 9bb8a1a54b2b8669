/** Crib's own metrics, read when Prometheus asks. Loaded only where `metrics.address` is set. */
import { Counter, Gauge, Registry } from "prom-client";
import type { Metric } from "./metric.ts";

/** What answers: GET /metrics alone. */
export interface MetricsServer {
  /** With the port that was taken where 0 was asked for. */
  readonly address: string;
  stop(): Promise<void>;
}

/** Listens on "HOST:PORT". Throws (EADDRINUSE, ...) when it cannot. */
export function serveMetrics(address: string, metrics: readonly Metric[]): MetricsServer {
  const registry = new Registry();
  for (const metric of metrics) register(registry, metric);
  const colon = address.lastIndexOf(":");
  const server = Bun.serve({
    hostname: address.slice(0, colon).replace(/^\[|\]$/g, ""),
    port: Number(address.slice(colon + 1)),
    development: false,
    maxRequestBodySize: 1024,
    async fetch(request) {
      if (new URL(request.url).pathname !== "/metrics") return new Response(null, { status: 404 });
      if (request.method !== "GET") return new Response(null, { status: 405 });
      const body = await registry.metrics();
      return new Response(body, { headers: { "Content-Type": registry.contentType } });
    },
  });
  return {
    address: `${address.slice(0, colon)}:${server.port}`,
    stop: () => server.stop(true),
  };
}

function register(registry: Registry, { name, help, type, labels = [], read }: Metric): void {
  const options = { name, help, labelNames: [...labels], registers: [registry] };
  if (type === "gauge") {
    new Gauge({
      ...options,
      collect() {
        this.reset();
        for (const { labels: of = {}, value } of read()) this.set(of, value);
      },
    });
  } else {
    new Counter({
      ...options,
      collect() {
        // The source counts; here is only its present value.
        this.reset();
        for (const { labels: of = {}, value } of read()) this.inc(of, value);
      },
    });
  }
}
