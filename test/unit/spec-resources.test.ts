import { describe, expect, test } from "bun:test";
import {
  buildOomScoreAdj,
  buildPidsLimit,
  buildResources,
} from "../../src/container/spec/resources.ts";
import type { DeepPartial } from "../../src/gen/runtime/v1/common_pb.ts";
import { LinuxContainerResources } from "../../src/gen/runtime/v1/resources_pb.ts";
import { ableHost } from "../fixtures/spec-input.ts";

type Limits = DeepPartial<LinuxContainerResources>;
const MIB = 1024n * 1024n;

function build(limits: Limits, host: Partial<typeof ableHost> = {}) {
  return buildResources(LinuxContainerResources.fromPartial(limits), { ...ableHost, ...host });
}

test("nothing specified limits nothing", () => {
  expect(buildResources(undefined, ableHost)).toEqual({ resources: {}, warnings: [] });
  expect(JSON.stringify(build({}).resources)).toBe("{}");
});

test("all limits become OCI resources", () => {
  const { resources, warnings } = build({
    cpuPeriod: 100_000n,
    cpuQuota: 150_000n,
    cpuShares: 2n,
    cpusetCpus: "0-3,7",
    cpusetMems: "0",
    memoryLimitInBytes: 64n * MIB,
    memorySwapLimitInBytes: 128n * MIB,
    hugepageLimits: [{ pageSize: "2MB", limit: 4n * MIB }],
    unified: { "memory.high": "1", "hugetlb.2MB.max": "max" },
  });
  expect(resources).toEqual({
    cpu: { period: 100_000, quota: 150_000, shares: 2, cpus: "0-3,7", mems: "0" },
    memory: { limit: 67_108_864, swap: 134_217_728 },
    hugepageLimits: [{ pageSize: "2MB", limit: 4_194_304 }],
    unified: { "memory.high": "1", "hugetlb.2MB.max": "max" },
  });
  expect(warnings).toEqual([]);
});

test.each<[string, Limits, string]>([
  ["memory", { memoryLimitInBytes: 64n * MIB }, "memory_limit_in_bytes: 67108864"],
  ["cpu", { cpuShares: 2n }, "cpu_shares: 2"],
  ["cpu", { cpuQuota: 50_000n }, "cpu_quota: 50000"],
  ["cpuset", { cpusetCpus: "0" }, 'cpuset_cpus: "0"'],
])("a limit that needs the missing controller %s is refused", (name, limits, message) => {
  const controllers = ableHost.controllers.filter((it) => it !== name);
  expect(() => build(limits, { controllers })).toThrow(
    `linux.resources.${message}: this host has no cgroup controller "${name}"`,
  );
  expect(JSON.stringify(build({}, { controllers }).resources)).toBe("{}");
});

describe("processes", () => {
  const none = { ...ableHost, controllers: ["memory"] };

  test("the default is a share of what the host can have; a number is that; -1 is all there are", () => {
    const host = { ...ableHost, processesMax: 100_000 };
    expect(buildPidsLimit("auto", undefined, host)).toEqual({ pids: { limit: 15_000 } });
    expect(buildPidsLimit(50, undefined, host)).toEqual({ pids: { limit: 50 } });
    expect(buildPidsLimit(-1, undefined, host)).toEqual({ pids: { limit: 4_194_304 } });
  });

  test("the client's own limit counts", () => {
    const resources = LinuxContainerResources.fromPartial({ unified: { "pids.max": "7" } });
    expect(buildPidsLimit(50, resources, ableHost)).toEqual({});
  });

  test("a host that cannot limit them has no default, and refuses a number", () => {
    expect(buildPidsLimit("auto", undefined, none)).toEqual({});
    expect(buildPidsLimit(-1, undefined, none)).toEqual({});
    const why = 'container.pids_limit: 50: this host has no cgroup controller "pids"';
    expect(() => buildPidsLimit(50, undefined, none)).toThrow(why);
  });
});

describe("memory and swap", () => {
  const limit = 64n * MIB;
  const bytes = Number(limit);

  test.each<[string, Limits, boolean, object | undefined]>([
    [
      "a limit alone means no swap",
      { memoryLimitInBytes: limit },
      true,
      { limit: bytes, swap: bytes },
    ],
    [
      "a limit alone where swap is not counted",
      { memoryLimitInBytes: limit },
      false,
      { limit: bytes },
    ],
    [
      "unlimited swap",
      { memoryLimitInBytes: limit, memorySwapLimitInBytes: -1n },
      true,
      { limit: bytes, swap: -1 },
    ],
    [
      "unlimited both",
      { memoryLimitInBytes: -1n, memorySwapLimitInBytes: -1n },
      true,
      { limit: -1, swap: -1 },
    ],
    [
      "the kubelet's own swap file",
      { memoryLimitInBytes: limit, unified: { "memory.swap.max": "1" } },
      true,
      { limit: bytes },
    ],
    ["the smallest limit", { memoryLimitInBytes: 12n * MIB }, false, { limit: 12 * 1024 * 1024 }],
  ])("%s", (_, limits, swapAccounting, memory) => {
    expect(build(limits, { swapAccounting }).resources.memory).toEqual(memory as never);
  });

  test("no swap where swap is not counted is a warning, some swap an error", () => {
    const none = { memoryLimitInBytes: limit, memorySwapLimitInBytes: limit };
    const { resources, warnings } = build(none, { swapAccounting: false });
    expect(resources.memory).toEqual({ limit: bytes });
    expect(warnings).toEqual([expect.stringContaining("do not count swap")]);
    const some = { ...none, memorySwapLimitInBytes: limit + 1n };
    expect(() => build(some, { swapAccounting: false })).toThrow("do not count swap");
  });
});

describe("page sizes that this host cannot limit", () => {
  test("are a warning with a limit of 0, as the kubelet sends for each size", () => {
    const { resources, warnings } = build(
      { hugepageLimits: [{ pageSize: "2MB", limit: 0n }] },
      { hugepageSizes: [] },
    );
    expect(resources.hugepageLimits).toBeUndefined();
    expect(warnings).toEqual([expect.stringContaining("hugepage_limits[0]: 0 of 2MB")]);
  });

  test("are an error with more", () => {
    const limits = { hugepageLimits: [{ pageSize: "1GB", limit: 1n }] };
    expect(() => build(limits, { hugepageSizes: ["2MB"] })).toThrow('page_size: "1GB"');
  });
});

test.each<[string, Limits, string]>([
  ["shares below 2", { cpuShares: 1n }, "cpu_shares: 1: must be 2 to 262144"],
  ["negative shares", { cpuShares: -1n }, "cpu_shares: -1"],
  ["a quota below 1 ms", { cpuQuota: 999n }, "cpu_quota: 999"],
  ["a quota below -1", { cpuQuota: -2n }, "cpu_quota: -2"],
  ["a period above 1 s", { cpuPeriod: 1_000_001n }, "cpu_period: 1000001: must be 1000 to 1000000"],
  ["a cpuset that is none", { cpusetCpus: "0-" }, 'cpuset_cpus: "0-"'],
  ["a memset that is none", { cpusetMems: "a" }, 'cpuset_mems: "a"'],
  [
    "memory below the floor",
    { memoryLimitInBytes: 12n * MIB - 1n },
    "memory_limit_in_bytes: 12582911: is below",
  ],
  ["negative memory", { memoryLimitInBytes: -2n }, "memory_limit_in_bytes: -2"],
  ["memory beyond measure", { memoryLimitInBytes: 1n << 62n }, "memory_limit_in_bytes"],
  [
    "swap below memory",
    { memoryLimitInBytes: 64n * MIB, memorySwapLimitInBytes: 1n },
    "memory_swap_limit_in_bytes: 1: is memory and swap",
  ],
  ["swap without memory", { memorySwapLimitInBytes: 64n * MIB }, "needs memory_limit_in_bytes"],
  [
    "swap said twice",
    { memorySwapLimitInBytes: -1n, unified: { "memory.swap.max": "0" } },
    "is given too",
  ],
  [
    "a page size in other words",
    { hugepageLimits: [{ pageSize: "2Mi", limit: 0n }] },
    'page_size: "2Mi"',
  ],
  [
    "a unified file that moves processes",
    { unified: { "cgroup.procs": "1" } },
    'unified: "cgroup.procs"',
  ],
  ["a unified path", { unified: { "../memory.max": "1" } }, 'unified: "../memory.max"'],
])("%s is refused", (_, limits, message) => {
  expect(() => build(limits)).toThrow(`linux.resources.`);
  expect(() => build(limits)).toThrow(message);
});

test("unified is refused on cgroup v1", () => {
  const attempt = () => build({ unified: { "memory.high": "1" } }, { cgroupVersion: 1 });
  expect(attempt).toThrow('linux.resources.unified: ["memory.high"]: this host has cgroup v1');
});

describe("oom_score_adj", () => {
  const adjust = (value: bigint, oomScoreAdjMin: number) =>
    buildOomScoreAdj(LinuxContainerResources.fromPartial({ oomScoreAdj: value }), {
      ...ableHost,
      oomScoreAdjMin,
    });

  test("is what was asked for, and 0 when nothing was", () => {
    expect(adjust(-998n, -1000)).toEqual({ oomScoreAdj: -998, warnings: [] });
    expect(buildOomScoreAdj(undefined, ableHost).oomScoreAdj).toBe(0);
  });

  test("is raised to what the daemon may set, with a warning", () => {
    const { oomScoreAdj, warnings } = adjust(-998n, -500);
    expect(oomScoreAdj).toBe(-500);
    expect(warnings).toEqual([expect.stringContaining("-998 raised to -500")]);
  });

  test.each([-1001n, 1001n])("of %p is refused", (value) => {
    expect(() => adjust(value, -1000)).toThrow(`linux.resources.oom_score_adj: ${value}`);
  });
});
