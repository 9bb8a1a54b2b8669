/**
 * Capabilities (capabilities(7)). Taking them away is the native helper's: capset(2) acts on the calling
 * thread only, and the engine has several.
 */
import { readFileSync } from "node:fs";

/** Names by number, as linux/capability.h counts them. */
const NAMES = [
  "CHOWN",
  "DAC_OVERRIDE",
  "DAC_READ_SEARCH",
  "FOWNER",
  "FSETID",
  "KILL",
  "SETGID",
  "SETUID",
  "SETPCAP",
  "LINUX_IMMUTABLE",
  "NET_BIND_SERVICE",
  "NET_BROADCAST",
  "NET_ADMIN",
  "NET_RAW",
  "IPC_LOCK",
  "IPC_OWNER",
  "SYS_MODULE",
  "SYS_RAWIO",
  "SYS_CHROOT",
  "SYS_PTRACE",
  "SYS_PACCT",
  "SYS_ADMIN",
  "SYS_BOOT",
  "SYS_NICE",
  "SYS_RESOURCE",
  "SYS_TIME",
  "SYS_TTY_CONFIG",
  "MKNOD",
  "LEASE",
  "AUDIT_WRITE",
  "AUDIT_CONTROL",
  "SETFCAP",
  "MAC_OVERRIDE",
  "MAC_ADMIN",
  "SYSLOG",
  "WAKE_ALARM",
  "BLOCK_SUSPEND",
  "AUDIT_READ",
  "PERFMON",
  "BPF",
  "CHECKPOINT_RESTORE",
] as const;

/** A capability without its CAP_ prefix. */
export type Capability = (typeof NAMES)[number];

export interface CapabilitySets {
  effective: Capability[];
  permitted: Capability[];
  bounding: Capability[];
}

/** The process's own sets, from /proc/self/status (or text in its form). */
export function readCapabilities(
  status = readFileSync("/proc/self/status", "utf8"),
): CapabilitySets {
  const set = (field: string): Capability[] => {
    const hex = new RegExp(`^${field}:\\s*([0-9a-f]+)$`, "m").exec(status)?.[1];
    const bits = BigInt(`0x${hex ?? "0"}`);
    return NAMES.filter((_, number) => (bits >> BigInt(number)) & 1n);
  };
  return { effective: set("CapEff"), permitted: set("CapPrm"), bounding: set("CapBnd") };
}

/** Those capabilities as a mask, hexadecimal, as /proc/PID/status has it. */
export function capabilityMask(capabilities: readonly Capability[]): string {
  const bits = capabilities.map((name) => 1n << BigInt(NAMES.indexOf(name)));
  return bits.reduce((mask, bit) => mask | bit, 0n).toString(16);
}
