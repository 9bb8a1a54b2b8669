/**
 * Capabilities (capabilities(7)) and no_new_privs. capset(2) and prctl(2) act on the calling thread
 * only: use the setters in a short-lived child whose work is synchronous.
 */
import { readFileSync } from "node:fs";
import { buffer, check, libc } from "./libc.ts";

const c = libc({
  capset: { args: ["ptr", "ptr"], returns: "i32" },
  prctl: { args: ["i32", "u64", "u64", "u64", "u64"], returns: "i32" },
});

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

const VERSION_3 = 0x20080522;
const PR_CAPBSET_READ = 23;
const PR_CAPBSET_DROP = 24;
const PR_SET_NO_NEW_PRIVS = 38;

/**
 * Keeps only `keep` of `permitted` (what the calling thread has) in its effective, permitted and
 * bounding sets; the inheritable set becomes empty. Names that it does not have are no error. After a
 * chroot /proc is gone: read `permitted` before.
 */
export function keepOnlyCapabilities(
  keep: readonly Capability[],
  permitted: readonly Capability[] = readCapabilities().permitted,
): void {
  for (let number = 0; c.prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0; number++) {
    const name = NAMES[number];
    if (name !== undefined && keep.includes(name)) continue;
    if (!permitted.includes("SETPCAP")) break;
    check(c.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), "prctl", `PR_CAPBSET_DROP ${number}`);
  }
  let bits = 0n;
  for (const name of permitted) {
    if (keep.includes(name)) bits |= 1n << BigInt(NAMES.indexOf(name));
  }
  const header = buffer(8);
  new DataView(header.buffer).setUint32(0, VERSION_3, true);
  const data = buffer(24);
  const view = new DataView(data.buffer);
  for (const half of [0, 1]) {
    const word = Number((bits >> BigInt(32 * half)) & 0xffff_ffffn);
    view.setUint32(12 * half, word, true); // effective
    view.setUint32(12 * half + 4, word, true); // permitted
  }
  check(c.capset(header, data), "capset");
}

/** prctl(PR_SET_NO_NEW_PRIVS): no exec gains privileges any more. */
export function setNoNewPrivileges(): void {
  check(c.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl", "PR_SET_NO_NEW_PRIVS");
}
