/** What this host can give to a container: capabilities, LSMs, hugepages, swap accounting, /dev. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { readCapabilities } from "./capabilities.ts";

/** Facts that do not change while the host is up. */
export interface HostFacts {
  /** What a process that Crib starts as root can have, without CAP_. */
  capabilities: readonly string[];
  /** The lowest oom_score_adj that Crib may set. */
  oomScoreAdjMin: number;
  /** Cgroup controllers that work. */
  controllers: readonly string[];
  apparmor: boolean;
  selinux: boolean;
  /** Page sizes that cgroups can limit, as "2MB", "1GB". */
  hugepageSizes: readonly string[];
  /** The hard limit of open files that Crib runs with, and can give. */
  openFilesMax: number;
  /** Processes and threads that the host can have. */
  processesMax: number;
  /** Cgroups limit swap too (CONFIG_MEMCG_SWAP; swapaccount=1 on old cgroup v1 hosts). */
  swapAccounting: boolean;
}

/** All capabilities that Linux has a name for, in the order of their numbers. */
export const capabilityNames: readonly string[] = readCapabilities("CapBnd: 1ffffffffff").bounding;

/**
 * Reads the facts. `controllers` maps a cgroup controller to where it is mounted (`detectCgroups()`).
 */
export function readHost(controllers: ReadonlyMap<string, string>): HostFacts {
  // Root gains its whole bounding set at exec, so that is what an OCI runtime will have.
  const sets = readCapabilities();
  const capabilities = process.geteuid?.() === 0 ? sets.bounding : sets.permitted;
  return {
    capabilities,
    oomScoreAdjMin: capabilities.includes("SYS_RESOURCE")
      ? -1000
      : Number(readFileSync("/proc/self/oom_score_adj", "utf8")),
    controllers: [...controllers.keys()],
    apparmor: readOr("/sys/module/apparmor/parameters/enabled", "N").startsWith("Y"),
    selinux: existsSync("/sys/fs/selinux/enforce"),
    hugepageSizes: controllers.has("hugetlb") ? hugepageSizes() : [],
    openFilesMax: openFilesMax(readOr("/proc/self/limits", "")),
    processesMax: Math.min(
      ...["pid_max", "threads-max"].map((name) =>
        Number(readOr(`/proc/sys/kernel/${name}`, "32768")),
      ),
    ),
    swapAccounting: hasSwapAccounting(controllers.get("memory")),
  };
}

/** From proc_pid_limits(5); "unlimited" and what cannot be read are the kernel's own ceiling. */
function openFilesMax(limits: string): number {
  const hard = /^Max open files\s+\S+\s+(\d+)/m.exec(limits)?.[1];
  return hard === undefined ? 1024 * 1024 : Number(hard);
}

/** Page sizes in the words of the hugetlb controller's file names. */
function hugepageSizes(directory = "/sys/kernel/mm/hugepages"): string[] {
  const sizes: string[] = [];
  for (const name of existsSync(directory) ? readdirSync(directory) : []) {
    const kib = Number(/^hugepages-(\d+)kB$/.exec(name)?.[1]);
    if (kib > 0) sizes.push(hugepageSizeName(kib * 1024));
  }
  return sizes.sort();
}

/** 2097152 → "2MB": the largest unit of 1024 that is not above the size. */
export function hugepageSizeName(bytes: number): string {
  const units = ["B", "KB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${value}${units[unit]}`;
}

/** The root cgroup of v2 has no limit files, so any cgroup below it tells. */
function hasSwapAccounting(memoryMount: string | undefined): boolean {
  if (memoryMount === undefined) return false;
  if (existsSync(`${memoryMount}/memory.memsw.limit_in_bytes`)) return true;
  if (!existsSync(`${memoryMount}/cgroup.controllers`)) return false;
  const children = readdirSync(memoryMount, { withFileTypes: true }).filter((entry) =>
    entry.isDirectory(),
  );
  return children.some(({ name }) => existsSync(`${memoryMount}/${name}/memory.swap.max`));
}

function readOr(path: string, fallback: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return fallback;
  }
}
