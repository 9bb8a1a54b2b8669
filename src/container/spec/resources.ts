import type { Config } from "../../config/schema.ts";
import type { LinuxContainerResources } from "../../gen/runtime/v1/resources_pb.ts";
import type { SpecHost } from "./input.ts";
import type { OciResources } from "./oci.ts";
import { impossible, invalid } from "./refuse.ts";

type ResourceHost = Pick<
  SpecHost,
  "cgroupVersion" | "controllers" | "hugepageSizes" | "oomScoreAdjMin" | "swapAccounting"
>;
type Limits = Omit<OciResources, "devices" | "pids">;

/** Less does not let an OCI runtime start a container (CRI-O's container_min_memory). */
const MEMORY_FLOOR_BYTES = 12 * 1024 * 1024;
const CPU_SET = /^\d+(-\d+)?(,\d+(-\d+)?)*$/;

/**
 * `linux.resources` of a container, checked, as OCI resources without devices; for creation and for
 * updates. 0 and "" mean "not specified" throughout.
 *
 * @throws CribError InvalidArgument for nonsense, FailedPrecondition for what this host cannot limit.
 */
export function buildResources(
  resources: LinuxContainerResources | undefined,
  host: ResourceHost,
): { resources: Limits; warnings: string[] } {
  if (resources === undefined) return { resources: {}, warnings: [] };
  const warnings: string[] = [];
  const limits: Limits = {
    memory: memory(resources, host, warnings),
    cpu: cpu(resources, host),
    hugepageLimits: hugepages(resources, host, warnings),
    unified: unified(resources, host),
  };
  return { resources: limits, warnings };
}

const PIDS_SHARE = 0.15;
/** The kernel has no larger numbers of processes (PID_MAX_LIMIT): no limit. */
const PIDS_ALL = 4 * 1024 * 1024;

/**
 * The node's limit of processes, for a container that has not its own (`unified`). Always one: of none systemd
 * makes its own, and OCI runtimes differ over 0 and -1.
 *
 * @throws CribError FailedPrecondition: the configuration names a number, and the host cannot limit them.
 */
export function buildPidsLimit(
  configured: Config["container"]["pids_limit"],
  resources: LinuxContainerResources | undefined,
  host: Pick<SpecHost, "controllers" | "processesMax">,
): Pick<OciResources, "pids"> {
  if (resources?.unified["pids.max"] !== undefined) return {};
  if (!host.controllers.includes("pids")) {
    if (typeof configured === "string" || configured === -1) return {};
    throw impossible("container.pids_limit", configured, missing("pids"));
  }
  if (configured === "auto") return { pids: { limit: Math.floor(host.processesMax * PIDS_SHARE) } };
  return { pids: { limit: configured === -1 ? PIDS_ALL : configured } };
}

/**
 * The oom_score_adj of the container, never inherited from Crib. The kernel lets nobody go below
 * its own without CAP_SYS_RESOURCE, and runc dies of it without a word.
 */
export function buildOomScoreAdj(
  resources: LinuxContainerResources | undefined,
  host: ResourceHost,
): { oomScoreAdj: number; warnings: string[] } {
  const wanted = integer(resources?.oomScoreAdj ?? 0n, "oom_score_adj", -1000, 1000);
  if (wanted >= host.oomScoreAdjMin) return { oomScoreAdj: wanted, warnings: [] };
  const warning =
    `linux.resources.oom_score_adj: ${wanted} raised to ${host.oomScoreAdjMin}, ` +
    "the lowest that Crib may set without CAP_SYS_RESOURCE";
  return { oomScoreAdj: host.oomScoreAdjMin, warnings: [warning] };
}

function memory(
  resources: LinuxContainerResources,
  host: ResourceHost,
  warnings: string[],
): OciResources["memory"] {
  const limit = bytes(resources.memoryLimitInBytes, "memory_limit_in_bytes");
  const swap = bytes(resources.memorySwapLimitInBytes, "memory_swap_limit_in_bytes");
  if (limit > 0 && limit < MEMORY_FLOOR_BYTES) {
    throw invalid(
      "linux.resources.memory_limit_in_bytes",
      limit,
      `is below the ${MEMORY_FLOOR_BYTES} bytes (12 MiB) that starting a container takes`,
    );
  }
  if (limit > 0) needController(host, "memory", "memory_limit_in_bytes", limit);
  const result: OciResources["memory"] = limit === 0 ? {} : { limit };
  const swapInUnified = resources.unified["memory.swap.max"] !== undefined;
  if (swap === 0) {
    // "Not specified" is no swap at all for a container with a limit, as with both peers.
    if (limit > 0 && host.swapAccounting && !swapInUnified) result.swap = limit;
  } else {
    checkSwap(limit, swap, swapInUnified);
    if (host.swapAccounting) result.swap = swap;
    else if (swap !== -1) refuseSwap(limit, swap, warnings);
  }
  return Object.keys(result).length === 0 ? undefined : result;
}

/** OCI runtimes say it in words of their own, or skip the limit (runc, rootless). */
function needController(host: ResourceHost, name: string, field: string, value: unknown): void {
  if (host.controllers.includes(name)) return;
  throw impossible(`linux.resources.${field}`, value, missing(name));
}

function missing(controller: string): string {
  return `this host has no cgroup controller "${controller}": "crib check" tells how to get it`;
}

function checkSwap(limit: number, swap: number, swapInUnified: boolean): void {
  const field = "linux.resources.memory_swap_limit_in_bytes";
  if (swapInUnified) throw invalid(field, swap, 'unified["memory.swap.max"] is given too');
  if (swap === -1) return;
  if (limit <= 0) throw invalid(field, swap, "needs memory_limit_in_bytes");
  if (swap < limit) {
    throw invalid(
      field,
      swap,
      `is memory and swap together: less than memory_limit_in_bytes ${limit}`,
    );
  }
}

/** Without swap accounting "no swap" is only a wish; a real amount is a promise that would break. */
function refuseSwap(limit: number, swap: number, warnings: string[]): void {
  const field = "linux.resources.memory_swap_limit_in_bytes";
  const reason = "this host's cgroups do not count swap";
  if (swap !== limit) throw impossible(field, swap, reason);
  warnings.push(`${field}: ${swap} has no effect: ${reason}`);
}

function cpu(resources: LinuxContainerResources, host: ResourceHost): OciResources["cpu"] {
  const result: NonNullable<OciResources["cpu"]> = {};
  const shares = resources.cpuShares;
  if (shares !== 0n) result.shares = integer(shares, "cpu_shares", 2, 262_144);
  const quota = resources.cpuQuota;
  if (quota === -1n) result.quota = -1;
  else if (quota !== 0n) {
    result.quota = integer(quota, "cpu_quota", 1000, Number.MAX_SAFE_INTEGER, " or -1 (unlimited)");
  }
  const period = resources.cpuPeriod;
  if (period !== 0n) result.period = integer(period, "cpu_period", 1000, 1_000_000);
  if (Object.keys(result).length > 0) {
    const field = shares !== 0n ? "cpu_shares" : quota !== 0n ? "cpu_quota" : "cpu_period";
    needController(host, "cpu", field, shares || quota || period);
  }
  for (const [field, key] of [
    ["cpusetCpus", "cpus"],
    ["cpusetMems", "mems"],
  ] as const) {
    if (resources[field] === "") continue;
    const name = `cpuset_${key}`;
    result[key] = cpuSet(resources[field], name);
    needController(host, "cpuset", name, resources[field]);
  }
  return Object.keys(result).length === 0 ? undefined : result;
}

/** The kubelet sends a limit of 0 for each page size of the machine: that needs no controller. */
function hugepages(
  resources: LinuxContainerResources,
  host: ResourceHost,
  warnings: string[],
): OciResources["hugepageLimits"] {
  const limits: NonNullable<OciResources["hugepageLimits"]> = [];
  for (const [index, { pageSize, limit }] of resources.hugepageLimits.entries()) {
    const field = `linux.resources.hugepage_limits[${index}]`;
    if (!/^\d+[KMGT]B$/.test(pageSize)) {
      throw invalid(`${field}.page_size`, pageSize, 'must look like "2MB" or "1GB"');
    }
    if (host.hugepageSizes.includes(pageSize)) {
      limits.push({ pageSize, limit: unsigned(limit, `${field}.limit`) });
      continue;
    }
    const known = host.hugepageSizes.join(", ") || "none";
    const reason = `this host's cgroups limit other page sizes (${known})`;
    if (limit > 0n) throw impossible(`${field}.page_size`, pageSize, reason);
    warnings.push(`${field}: 0 of ${pageSize} is not enforced: ${reason}`);
  }
  return limits.length === 0 ? undefined : limits;
}

/** cgroup v2 files by name. "cgroup.*" would move processes or hand the cgroup over. */
function unified(
  resources: LinuxContainerResources,
  host: ResourceHost,
): Record<string, string> | undefined {
  const entries = Object.entries(resources.unified);
  if (entries.length === 0) return undefined;
  const field = "linux.resources.unified";
  for (const [key, value] of entries) {
    if (!/^[a-z0-9_]+(\.[A-Za-z0-9_]+)+$/.test(key) || key.startsWith("cgroup.")) {
      throw invalid(field, key, "is not the name of a cgroup v2 controller's file");
    }
    if (value.includes("\0")) throw invalid(`${field}["${key}"]`, value, "holds a NUL byte");
  }
  if (host.cgroupVersion === 1) {
    throw impossible(field, Object.keys(resources.unified), "this host has cgroup v1, not v2");
  }
  return Object.fromEntries(entries);
}

function cpuSet(value: string, name: string): string {
  if (!CPU_SET.test(value)) {
    throw invalid(`linux.resources.${name}`, value, 'must be a list such as "0-3,7"');
  }
  return value;
}

/** A number of bytes; -1 is unlimited. */
function bytes(value: bigint, name: string): number {
  if (value === -1n) return -1;
  return integer(value, name, 0, Number.MAX_SAFE_INTEGER, " or -1 (unlimited)");
}

function integer(value: bigint, name: string, min: number, max: number, or = ""): number {
  if (value < BigInt(min) || value > BigInt(max)) {
    throw invalid(`linux.resources.${name}`, value, `must be ${min} to ${max}${or}`);
  }
  return Number(value);
}

function unsigned(value: bigint, field: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw invalid(field, value, "is too large");
  return Number(value);
}
