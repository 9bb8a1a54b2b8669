import type { LinuxContainerSecurityContext } from "../../gen/runtime/v1/container_config_pb.ts";
import { invalid } from "./refuse.ts";

/**
 * Files of the kernel that tell of the host and of other containers: those that kubelets mask, and CRI-O.
 * An older kubelet does not know all of them (/proc/interrupts came in 2025). A newer one
 * masks each processor's thermal_throttle too; not here, because that is a mount for each of them.
 */
const TELLTALES = [
  "/proc/acpi",
  "/proc/asound",
  "/proc/interrupts",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/sched_debug",
  "/proc/scsi",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/sys/devices/virtual/powercap",
  "/sys/firmware",
  "/sys/fs/selinux",
];

/**
 * `linux.maskedPaths` and `linux.readonlyPaths`. The kubelet always sends its lists: empty ones are those
 * of procMount Unmasked. Whoever masks something gets all that CRI-O masks. Nothing of it holds for a
 * privileged container.
 */
export function buildHiddenPaths(
  security: LinuxContainerSecurityContext | undefined,
  privileged: boolean,
): { maskedPaths: string[]; readonlyPaths: string[] } {
  const masked = checked(security?.maskedPaths, "masked_paths");
  const readonly = checked(security?.readonlyPaths, "readonly_paths");
  if (privileged) return { maskedPaths: [], readonlyPaths: [] };
  const all = masked.length > 0 ? new Set([...masked, ...TELLTALES]) : [];
  return { maskedPaths: [...all], readonlyPaths: readonly };
}

function checked(paths: readonly string[] = [], name: string): string[] {
  for (const [index, path] of paths.entries()) {
    if (!path.startsWith("/") || path.includes("\0")) {
      const field = `linux.security_context.${name}[${index}]`;
      throw invalid(field, path, "must be an absolute path");
    }
  }
  return [...paths];
}
