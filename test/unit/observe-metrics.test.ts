import { afterEach, expect, test } from "bun:test";
import type { Metric } from "../../src/observe/metric.ts";
import { type MetricsServer, serveMetrics } from "../../src/observe/metrics.ts";

let server: MetricsServer | undefined;
afterEach(() => server?.stop());

const start = (metrics: Metric[], address = "127.0.0.1:0") => {
  server = serveMetrics(address, metrics);
  return `http://${server.address}`;
};

test("metrics are read when they are asked for, with labels, in Prometheus' text form", async () => {
  let value = 1;
  const pulls = new Map([["a.io/x:1", 5]]);
  const url = start([
    { name: "crib_things_total", help: "Things.", type: "counter", read: () => [{ value }] },
    {
      name: "crib_pull_bytes",
      help: "Bytes.",
      type: "gauge",
      labels: ["image"],
      read: () => [...pulls].map(([image, bytes]) => ({ labels: { image }, value: bytes })),
    },
  ]);
  const first = await fetch(`${url}/metrics`);
  expect(first.headers.get("content-type")).toStartWith("text/plain; version=0.0.4");
  const text = await first.text();
  expect(text).toContain("# TYPE crib_things_total counter\ncrib_things_total 1\n");
  expect(text).toContain('crib_pull_bytes{image="a.io/x:1"} 5\n');
  value = 7;
  pulls.clear();
  const second = await (await fetch(`${url}/metrics`)).text();
  expect(second).toContain("crib_things_total 7\n");
  expect(second).not.toContain("crib_pull_bytes{");
});

test("nothing but GET /metrics is answered", async () => {
  const url = start([]);
  expect((await fetch(`${url}/`)).status).toBe(404);
  expect((await fetch(`${url}/metrics`, { method: "POST" })).status).toBe(405);
});

test("an IPv6 address in brackets is listened on", async () => {
  expect((await fetch(`${start([], "[::1]:0")}/metrics`)).status).toBe(200);
});

test("an address that is taken is an error", () => {
  const other = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  try {
    expect(() => serveMetrics(`127.0.0.1:${other.port}`, [])).toThrow();
  } finally {
    other.stop();
  }
});
