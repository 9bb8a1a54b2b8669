import { describe, expect, test } from "bun:test";
import { ContainerStats } from "../../src/gen/runtime/v1/stats_pb.ts";
import { toContainerStats } from "../../src/stats/container-stats.ts";
import { CpuRates } from "../../src/stats/cpu-rates.ts";

const ATTRIBUTES = { id: "c1", metadata: { name: "web", attempt: 2 }, labels: { a: "b" } };

describe("toContainerStats", () => {
  test("every reading has its place in the message, and the message can be sent", () => {
    const some = { avg10: 1, avg60: 2, avg300: 3, totalNanoSeconds: 4n };
    const message = toContainerStats({
      attributes: ATTRIBUTES,
      reading: {
        timestampNs: 7n,
        monotonicNs: 1n,
        cpu: { usageCoreNanoSeconds: 10n, psi: { some } },
        memory: {
          usageBytes: 11n,
          workingSetBytes: 12n,
          availableBytes: 13n,
          rssBytes: 14n,
          pageFaults: 15n,
          majorPageFaults: 16n,
          psi: { full: some },
        },
        swap: { usageBytes: 17n, availableBytes: 18n },
        io: { psi: { some } },
      },
      usageNanoCores: 19n,
      writableLayer: { bytes: 20n, inodes: 21n, timestampNs: 22n },
      storageRoot: "/var/lib/crib",
    });
    const psi = { Total: 4n, Avg10: 1, Avg60: 2, Avg300: 3 };
    expect(ContainerStats.decode(ContainerStats.encode(message).finish())).toMatchObject({
      attributes: ATTRIBUTES,
      cpu: {
        timestamp: 7n,
        usageCoreNanoSeconds: { value: 10n },
        usageNanoCores: { value: 19n },
        psi: { Some: psi },
      },
      memory: {
        timestamp: 7n,
        usageBytes: { value: 11n },
        workingSetBytes: { value: 12n },
        availableBytes: { value: 13n },
        rssBytes: { value: 14n },
        pageFaults: { value: 15n },
        majorPageFaults: { value: 16n },
        psi: { Full: psi },
      },
      swap: { timestamp: 7n, swapUsageBytes: { value: 17n }, swapAvailableBytes: { value: 18n } },
      io: { timestamp: 7n, psi: { Some: psi } },
      writableLayer: {
        timestamp: 22n,
        fsId: { mountpoint: "/var/lib/crib" },
        usedBytes: { value: 20n },
        inodesUsed: { value: 21n },
      },
    });
  });

  test("a container that does not run has its attributes and its layer, and no zeros", () => {
    const message = toContainerStats({
      attributes: ATTRIBUTES,
      reading: undefined,
      usageNanoCores: undefined,
      writableLayer: { bytes: 0n, inodes: 1n, timestampNs: 22n },
      storageRoot: "/var/lib/crib",
    });
    expect(message.attributes?.id).toBe("c1");
    expect(message.writableLayer?.usedBytes?.value).toBe(0n);
    for (const part of ["cpu", "memory", "swap", "io"] as const) {
      expect(message[part]).toBeUndefined();
    }
  });
});

describe("CpuRates", () => {
  const second = 1_000_000_000n;

  test("half a core used between two samples is 5e8, the first sample has no rate", () => {
    const rates = new CpuRates();
    expect(rates.sample("a", 100n, second)).toBeUndefined();
    expect(rates.sample("a", 100n + second, 3n * second)).toBe(500_000_000n);
    expect(rates.sample("b", 5n, 3n * second)).toBeUndefined();
  });

  test("a sample that comes too early repeats the last rate and does not move the window", () => {
    const rates = new CpuRates();
    rates.sample("a", 0n, 0n);
    expect(rates.sample("a", 50n, second / 20n)).toBeUndefined();
    expect(rates.sample("a", second, second)).toBe(second);
    expect(rates.sample("a", second, second + 99_999_999n)).toBe(second);
    expect(rates.sample("a", second, 2n * second)).toBe(0n);
  });

  test("a counter that went back starts anew", () => {
    const rates = new CpuRates();
    rates.sample("a", second, 0n);
    expect(rates.sample("a", 5n, second)).toBeUndefined();
    expect(rates.sample("a", 5n + second, 2n * second)).toBe(second);
  });

  test("a forgotten container starts anew", () => {
    const rates = new CpuRates();
    rates.sample("a", 0n, 0n);
    rates.forget("a");
    expect(rates.sample("a", second, second)).toBeUndefined();
  });
});
