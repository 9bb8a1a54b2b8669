import { describe, expect, test } from "bun:test";
import { type ReadCgroupFile, readV1, readV2 } from "../../src/stats/cgroup-stats.ts";

/** The files of a busy container on Linux 6.18, cgroup v1, limit 64 MiB of memory and as much swap. */
const V1: Record<string, string> = {
  "cpuacct.usage": "1803456789\n",
  "memory.usage_in_bytes": "20971520\n",
  "memory.limit_in_bytes": "67108864\n",
  "pids.current": "3\n",
  "memory.stat": [
    "cache 10739712",
    "rss 11161600",
    "inactive_file 8192",
    "swap 0",
    "pgfault 47999",
    "hierarchical_memory_limit 67108864",
    "hierarchical_memsw_limit 134217728",
    "total_cache 10739712",
    "total_rss 9437184",
    "total_swap 1048576",
    "total_pgfault 48000",
    "total_pgmajfault 12",
    "total_inactive_file 4194304",
    "",
  ].join("\n"),
};

/** The same on cgroup v2. */
const V2: Record<string, string> = {
  "cpu.stat": "usage_usec 324692709\nuser_usec 250290481\nsystem_usec 74402227\nnr_periods 0\n",
  "cpu.pressure":
    "some avg10=1.50 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
  "memory.current": "20971520\n",
  "memory.max": "67108864\n",
  "memory.stat":
    "anon 9437184\nfile 10739712\nkernel 802816\ninactive_file 4194304\npgfault 48000\npgmajfault 12\n",
  "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n",
  "memory.swap.current": "1048576\n",
  "memory.swap.max": "67108864\n",
  "io.pressure": "some avg10=2.00 avg60=0.00 avg300=0.00 total=7\n",
  "pids.current": "3\n",
};

const MEMORY = {
  usageBytes: 20971520n,
  workingSetBytes: 16777216n,
  availableBytes: 50331648n,
  rssBytes: 9437184n,
  pageFaults: 48000n,
  majorPageFaults: 12n,
};

/** Reads from `files`, and fails the test when a file is read twice. */
function reader(files: Record<string, string>): ReadCgroupFile {
  const seen = new Set<string>();
  return (_, file) => {
    expect(seen).not.toContain(file);
    seen.add(file);
    return files[file];
  };
}

function without(files: Record<string, string>, ...names: string[]): Record<string, string> {
  return Object.fromEntries(Object.entries(files).filter(([name]) => !names.includes(name)));
}

describe("cgroup v1", () => {
  test("hierarchical figures, each file read once", () => {
    expect(readV1(reader(V1))).toEqual({
      cpu: { usageCoreNanoSeconds: 1803456789n },
      memory: MEMORY,
      swap: { usageBytes: 1048576n, availableBytes: 112197632n },
      pids: 3n,
    });
  });

  test("nothing is said to be available without a limit", () => {
    const stat = V1["memory.stat"]?.replace(
      /(memsw_limit) \d+/,
      (_, name) => `${name} 9223372036854771712`,
    );
    const files = { ...V1, "memory.limit_in_bytes": "9223372036854771712\n" };
    const reading = readV1(reader({ ...files, "memory.stat": stat ?? "" }));
    expect(reading.memory?.availableBytes).toBeUndefined();
    expect(reading.swap).toEqual({ usageBytes: 1048576n });
  });

  test("without swap accounting there are no swap figures", () => {
    const stat = "total_rss 1\ntotal_inactive_file 0\n";
    const reading = readV1(reader({ ...V1, "memory.stat": stat }));
    expect(reading.swap).toBeUndefined();
    expect(reading.memory?.rssBytes).toBe(1n);
  });

  test("a missing tree costs only its own part", () => {
    const reading = readV1(reader(without(V1, "cpuacct.usage")));
    expect(reading.cpu).toBeUndefined();
    expect(reading.memory).toEqual(MEMORY);
  });
});

describe("cgroup v2", () => {
  test("all figures, each file read once", () => {
    const some = { avg10: 0, avg60: 0, avg300: 0 };
    expect(readV2(reader(V2))).toEqual({
      cpu: {
        usageCoreNanoSeconds: 324692709000n,
        psi: {
          some: { ...some, avg10: 1.5, totalNanoSeconds: 5000n },
          full: { ...some, totalNanoSeconds: 0n },
        },
      },
      memory: { ...MEMORY, psi: { some: { ...some, totalNanoSeconds: 9000n } } },
      swap: { usageBytes: 1048576n, availableBytes: 66060288n },
      io: { psi: { some: { ...some, avg10: 2, totalNanoSeconds: 7000n } } },
      pids: 3n,
    });
  });

  test("a kernel without pressure figures gives everything else", () => {
    const files = without(V2, "cpu.pressure", "memory.pressure", "io.pressure");
    const reading = readV2(reader(files));
    expect(reading.io).toBeUndefined();
    expect(reading.cpu).toEqual({ usageCoreNanoSeconds: 324692709000n });
    expect(reading.memory).toEqual(MEMORY);
  });

  test("without a memory controller there are no memory and swap figures", () => {
    const reading = readV2(reader({ "cpu.stat": V2["cpu.stat"] ?? "" }));
    expect(reading.memory).toBeUndefined();
    expect(reading.swap).toBeUndefined();
    expect(reading.cpu?.usageCoreNanoSeconds).toBe(324692709000n);
  });

  test("max is no limit; swap that is forbidden leaves zero bytes", () => {
    const reading = readV2(
      reader({
        ...V2,
        "memory.max": "max\n",
        "memory.swap.max": "0\n",
        "memory.swap.current": "0\n",
      }),
    );
    expect(reading.memory?.availableBytes).toBeUndefined();
    expect(reading.swap).toEqual({ usageBytes: 0n, availableBytes: 0n });
  });

  test("figures never go below zero when files were read at different moments", () => {
    const reading = readV2(
      reader({ ...V2, "memory.current": "4096\n", "memory.swap.current": "99999999999\n" }),
    );
    expect(reading.memory?.workingSetBytes).toBe(0n);
    expect(reading.swap?.availableBytes).toBe(0n);
  });

  test("a cgroup that is gone has no part", () => {
    const parts = Object.values(readV2(() => undefined));
    expect(parts.every((part) => part === undefined)).toBe(true);
  });
});
