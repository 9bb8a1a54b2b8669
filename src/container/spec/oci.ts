/**
 * The part of the OCI runtime configuration that Crib writes
 * (https://github.com/opencontainers/runtime-spec/blob/v1.2.1/config.md). Names are the standard's.
 */
export interface OciSpec {
  ociVersion: string;
  process: OciProcess;
  root: { path: string; readonly: boolean };
  mounts: OciMount[];
  annotations: Record<string, string>;
  linux: OciLinux;
}

export interface OciProcess {
  terminal: boolean;
  user: { uid: number; gid: number; additionalGids: number[] };
  args: string[];
  env: string[];
  cwd: string;
  capabilities: OciCapabilities;
  rlimits: OciRlimit[];
  noNewPrivileges: boolean;
  oomScoreAdj: number;
  apparmorProfile?: string;
}

/** Names with CAP_. */
export interface OciCapabilities {
  bounding: string[];
  effective: string[];
  permitted: string[];
  inheritable: string[];
  ambient: string[];
}

export interface OciRlimit {
  /** RLIMIT_NOFILE and so on. */
  type: string;
  soft: OciNumber;
  hard: OciNumber;
}

export interface OciMount {
  destination: string;
  type: string;
  source: string;
  options: string[];
}

export interface OciLinux {
  namespaces: OciNamespace[];
  cgroupsPath: string;
  resources: OciResources;
  devices: OciDevice[];
  maskedPaths: string[];
  readonlyPaths: string[];
  rootfsPropagation?: "rshared" | "rslave";
  seccomp?: OciSeccomp;
}

export interface OciNamespace {
  type: "mount" | "pid" | "network" | "ipc" | "uts" | "cgroup" | "user";
  /** An existing namespace to join; absent: a new one. */
  path?: string;
}

export interface OciDevice {
  path: string;
  type: "c" | "b";
  major: number;
  minor: number;
  /** Permission bits. */
  fileMode: number;
  uid: number;
  gid: number;
}

export interface OciDeviceRule {
  allow: boolean;
  type?: "a" | "b" | "c";
  major?: number;
  minor?: number;
  /** Of "r", "w", "m". */
  access: string;
}

export interface OciResources {
  devices: OciDeviceRule[];
  /** Bytes; -1 is unlimited. `swap` is memory and swap together, on cgroup v2 too. */
  memory?: { limit?: number; swap?: number };
  /** Microseconds and relative weight. */
  cpu?: { shares?: number; quota?: number; period?: number; cpus?: string; mems?: string };
  hugepageLimits?: Array<{ pageSize: string; limit: number }>;
  pids?: { limit: number };
  unified?: Record<string, string>;
}

export interface OciSeccomp {
  /** SCMP_ACT_* */
  defaultAction: string;
  defaultErrnoRet?: number;
  /** SCMP_ARCH_* */
  architectures: string[];
  flags?: string[];
  listenerPath?: string;
  listenerMetadata?: string;
  syscalls: OciSyscall[];
}

export interface OciSyscall {
  names: string[];
  action: string;
  errnoRet?: number;
  args?: OciSyscallArgument[];
}

export interface OciSyscallArgument {
  index: number;
  value: OciNumber;
  valueTwo?: OciNumber;
  /** SCMP_CMP_* */
  op: string;
}

/** A whole number: one above 2^53 (RLIM_INFINITY, a 64 bit mask) is kept digit by digit. */
export type OciNumber = number | RawNumber;

/** What `JSON.rawJSON` makes: `JSON.stringify` writes its digits as they are. */
export interface RawNumber {
  readonly rawJSON: string;
}

/** A number from its decimal digits, without loss. */
export function ociNumber(digits: string): OciNumber {
  const value = Number(digits);
  if (Number.isSafeInteger(value)) return value;
  return (JSON as unknown as { rawJSON(text: string): RawNumber }).rawJSON(digits);
}
