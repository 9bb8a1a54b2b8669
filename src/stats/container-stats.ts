/** Container statistics as CRI's ContainerStats message. */
import type { DeepPartial } from "../gen/runtime/v1/common_pb.ts";
import {
  type ContainerAttributes,
  ContainerStats,
  type PsiStats,
} from "../gen/runtime/v1/stats_pb.ts";
import type { CgroupReading } from "./cgroup-stats.ts";
import type { DiskUsage } from "./disk-usage.ts";
import type { Psi, PsiData } from "./parse.ts";

export interface ContainerStatsParts {
  attributes: DeepPartial<ContainerAttributes>;
  /** undefined: the container does not run, so it has no cgroup. */
  reading: CgroupReading | undefined;
  /** From the second sample on. */
  usageNanoCores: bigint | undefined;
  writableLayer: DiskUsage | undefined;
  /** The mount point that names the file system of the writable layer: the storage root. */
  storageRoot: string;
}

function wrapped(value: bigint | undefined): { value: bigint } | undefined {
  return value === undefined ? undefined : { value };
}

function psiData(data: PsiData) {
  return {
    Total: data.totalNanoSeconds,
    Avg10: data.avg10,
    Avg60: data.avg60,
    Avg300: data.avg300,
  };
}

function psiStats(psi: Psi | undefined): DeepPartial<PsiStats> | undefined {
  if (psi === undefined) return undefined;
  return {
    Full: psi.full && psiData(psi.full),
    Some: psi.some && psiData(psi.some),
  };
}

/**
 * The CRI message. What was not measured is absent, not zero: a container that does not run has no cpu,
 * memory, swap and io, as with containerd, and no available bytes are told where there is no limit.
 */
export function toContainerStats(parts: ContainerStatsParts): ContainerStats {
  const { reading, writableLayer } = parts;
  const { cpu, memory, swap, io } = reading ?? {};
  const timestamp = reading?.timestampNs ?? 0n;
  return ContainerStats.fromPartial({
    attributes: parts.attributes,
    cpu: cpu && {
      timestamp,
      usageCoreNanoSeconds: wrapped(cpu.usageCoreNanoSeconds),
      usageNanoCores: wrapped(parts.usageNanoCores),
      psi: psiStats(cpu.psi),
    },
    memory: memory && {
      timestamp,
      workingSetBytes: wrapped(memory.workingSetBytes),
      availableBytes: wrapped(memory.availableBytes),
      usageBytes: wrapped(memory.usageBytes),
      rssBytes: wrapped(memory.rssBytes),
      pageFaults: wrapped(memory.pageFaults),
      majorPageFaults: wrapped(memory.majorPageFaults),
      psi: psiStats(memory.psi),
    },
    swap: swap && {
      timestamp,
      swapUsageBytes: wrapped(swap.usageBytes),
      swapAvailableBytes: wrapped(swap.availableBytes),
    },
    io: io && { timestamp, psi: psiStats(io.psi) },
    writableLayer: writableLayer && {
      timestamp: writableLayer.timestampNs,
      fsId: { mountpoint: parts.storageRoot },
      usedBytes: wrapped(writableLayer.bytes),
      inodesUsed: wrapped(writableLayer.inodes),
    },
  });
}
