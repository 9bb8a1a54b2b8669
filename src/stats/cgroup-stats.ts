/**
 * CPU, memory, swap, pressure and pids of one cgroup, defined as the kubelet's cAdvisor defines them, so
 * that figures do not change with the way they are asked for. Each file is read once per reading.
 */
import { type CgroupHost, cgroupDirectory } from "../linux/cgroup.ts";
import { readKernelFile } from "../linux/kernel-file.ts";
import { type Psi, parseCount, parseKeyed, parseLimit, parsePsi } from "./parse.ts";

export interface CpuReading {
  usageCoreNanoSeconds: bigint;
  psi?: Psi;
}

export interface MemoryReading {
  usageBytes: bigint;
  /** Usage without the file cache that the kernel drops first (inactive_file). */
  workingSetBytes: bigint;
  /** The cgroup's own limit less the working set; absent without a limit. */
  availableBytes?: bigint;
  rssBytes?: bigint;
  pageFaults?: bigint;
  majorPageFaults?: bigint;
  psi?: Psi;
}

export interface SwapReading {
  usageBytes: bigint;
  /** Absent without a limit. */
  availableBytes?: bigint;
}

/** Parts are absent when their controller is off or missing, or the host keeps no such figures. */
export interface CgroupReading {
  /** Wall clock, nanoseconds since 1970. */
  timestampNs: bigint;
  /** Monotonic, nanoseconds: for rates. */
  monotonicNs: bigint;
  cpu?: CpuReading;
  memory?: MemoryReading;
  swap?: SwapReading;
  io?: { psi: Psi };
  /** Tasks (processes and their threads). */
  pids?: bigint;
}

/** Reads one file of the cgroup; undefined when it is not there. */
export type ReadCgroupFile = (controller: string, file: string) => string | undefined;

function difference(a: bigint, b: bigint): bigint {
  return a > b ? a - b : 0n;
}

/** Figures that v1 and v2 only name differently. */
interface MemoryFigures {
  usage: bigint | undefined;
  limit: bigint | undefined;
  inactiveFile: bigint | undefined;
  rss: bigint | undefined;
  faults: bigint | undefined;
  majorFaults: bigint | undefined;
  psi?: Psi;
}

function memoryReading(figures: MemoryFigures): MemoryReading | undefined {
  if (figures.usage === undefined) return undefined;
  const workingSetBytes = difference(figures.usage, figures.inactiveFile ?? 0n);
  const { limit } = figures;
  return {
    usageBytes: figures.usage,
    workingSetBytes,
    availableBytes: limit === undefined ? undefined : difference(limit, workingSetBytes),
    rssBytes: figures.rss,
    pageFaults: figures.faults,
    majorPageFaults: figures.majorFaults,
    psi: figures.psi,
  };
}

type Parts = Omit<CgroupReading, "timestampNs" | "monotonicNs">;

/** The reading of a v1 cgroup. v1 has no pressure figures. */
export function readV1(read: ReadCgroupFile): Parts {
  const usageCoreNanoSeconds = parseCount(read("cpuacct", "cpuacct.usage"));
  const stat = parseKeyed(read("memory", "memory.stat"));
  const usage = parseCount(read("memory", "memory.usage_in_bytes"));
  const memory = memoryReading({
    usage,
    limit: parseLimit(read("memory", "memory.limit_in_bytes")),
    inactiveFile: stat.get("total_inactive_file"),
    rss: stat.get("total_rss"),
    faults: stat.get("total_pgfault"),
    majorFaults: stat.get("total_pgmajfault"),
  });
  // Without swap accounting memory.stat has no "swap" lines. The limit counts memory and swap together.
  const swapBytes = stat.get("total_swap");
  const both = parseLimit(stat.get("hierarchical_memsw_limit")?.toString());
  const swapLeft =
    both === undefined ? undefined : difference(both, (usage ?? 0n) + (swapBytes ?? 0n));
  return {
    cpu: usageCoreNanoSeconds === undefined ? undefined : { usageCoreNanoSeconds },
    memory,
    swap: swapBytes === undefined ? undefined : { usageBytes: swapBytes, availableBytes: swapLeft },
    pids: parseCount(read("pids", "pids.current")),
  };
}

/** The reading of a v2 cgroup. */
export function readV2(read: ReadCgroupFile): Parts {
  const usageMicroSeconds = parseKeyed(read("cpu", "cpu.stat")).get("usage_usec");
  const stat = parseKeyed(read("memory", "memory.stat"));
  const memory = memoryReading({
    usage: parseCount(read("memory", "memory.current")),
    limit: parseLimit(read("memory", "memory.max")),
    inactiveFile: stat.get("inactive_file"),
    rss: stat.get("anon"),
    faults: stat.get("pgfault"),
    majorFaults: stat.get("pgmajfault"),
    psi: parsePsi(read("memory", "memory.pressure")),
  });
  const swapBytes = parseCount(read("memory", "memory.swap.current"));
  const swapLimit = parseLimit(read("memory", "memory.swap.max"));
  const swapLeft = swapLimit === undefined ? undefined : difference(swapLimit, swapBytes ?? 0n);
  const ioPsi = parsePsi(read("io", "io.pressure"));
  return {
    cpu:
      usageMicroSeconds === undefined
        ? undefined
        : {
            usageCoreNanoSeconds: usageMicroSeconds * 1000n,
            psi: parsePsi(read("cpu", "cpu.pressure")),
          },
    memory,
    swap: swapBytes === undefined ? undefined : { usageBytes: swapBytes, availableBytes: swapLeft },
    io: ioPsi === undefined ? undefined : { psi: ioPsi },
    pids: parseCount(read("pids", "pids.current")),
  };
}

/**
 * Reads the figures of a cgroup; undefined when it is gone. Synchronous: about 10 µs a file, less
 * than a trip through the thread pool.
 */
export function readCgroupStats(host: CgroupHost, path: string): CgroupReading | undefined {
  const unified = host.hierarchies[0]?.mountPoint ?? "";
  const read: ReadCgroupFile = (controller, file) => {
    // v2 has cpu.stat and the pressure files even where the controller is off.
    const directory =
      host.version === 2 ? `${unified}${path}` : cgroupDirectory(host, controller, path);
    return directory === undefined ? undefined : readKernelFile(`${directory}/${file}`);
  };
  const parts = host.version === 2 ? readV2(read) : readV1(read);
  if (Object.values(parts).every((part) => part === undefined)) return undefined;
  return {
    timestampNs: BigInt(Date.now()) * 1_000_000n,
    monotonicNs: process.hrtime.bigint(),
    ...parts,
  };
}
