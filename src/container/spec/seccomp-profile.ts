import * as v from "valibot";
import { type OciNumber, type OciSeccomp, type OciSyscall, ociNumber } from "./oci.ts";
import { seccompArchitectures } from "./seccomp-default.ts";

/** What the conditions of a Docker profile are decided by. */
export interface SeccompContext {
  /** With CAP_. */
  capabilities: readonly string[];
  /** Node's name: "x64", "arm64". */
  arch: string;
  /** As uname -r says it. */
  kernel: string;
}

const ACTIONS = [
  "SCMP_ACT_KILL",
  "SCMP_ACT_KILL_PROCESS",
  "SCMP_ACT_KILL_THREAD",
  "SCMP_ACT_TRAP",
  "SCMP_ACT_ERRNO",
  "SCMP_ACT_TRACE",
  "SCMP_ACT_ALLOW",
  "SCMP_ACT_LOG",
  "SCMP_ACT_NOTIFY",
] as const;
const OPERATORS = [
  "SCMP_CMP_NE",
  "SCMP_CMP_LT",
  "SCMP_CMP_LE",
  "SCMP_CMP_EQ",
  "SCMP_CMP_GE",
  "SCMP_CMP_GT",
  "SCMP_CMP_MASKED_EQ",
] as const;
/** The numbers are those of containers-common's profiles, which may name an errno instead. */
const ERRNO: Readonly<Record<string, number>> = {
  EPERM: 1,
  ENOENT: 2,
  EIO: 5,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EINVAL: 22,
  ENOSYS: 38,
  EAFNOSUPPORT: 97,
  EOPNOTSUPP: 95,
};

/** Three times the kernel's calls. A filter holds 4,096 instructions: no more rules than these fit in it. */
const MOST_RULES = 1024;

const action = v.picklist(ACTIONS);
const errnoRet = v.optional(
  v.nullable(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(4095))),
);
const errnoName = v.optional(v.nullable(v.picklist(["", ...Object.keys(ERRNO)])));
const raw = v.custom<OciNumber>(
  (value) => typeof value === "object" && value !== null && "rawJSON" in value,
  "must be a whole number of 64 bits",
);
const unsigned = v.union([v.pipe(v.number(), v.integer(), v.minValue(0)), raw]);
const argument = v.strictObject({
  index: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(5)),
  value: unsigned,
  valueTwo: v.optional(unsigned),
  op: v.picklist(OPERATORS),
});
const filter = v.optional(
  v.nullable(
    v.strictObject({
      caps: v.optional(v.nullable(v.array(v.string()))),
      arches: v.optional(v.nullable(v.array(v.string()))),
      minKernel: v.optional(v.nullable(v.pipe(v.string(), v.regex(/^\d+\.\d+(\.\d+)?$/)))),
    }),
  ),
);
const syscall = v.strictObject({
  name: v.optional(v.string()),
  names: v.optional(v.nullable(v.array(v.string()))),
  action,
  errnoRet,
  errno: errnoName,
  args: v.optional(v.nullable(v.array(argument))),
  includes: filter,
  excludes: filter,
  comment: v.optional(v.nullable(v.string())),
});
const profile = v.strictObject({
  defaultAction: action,
  defaultErrnoRet: errnoRet,
  defaultErrno: errnoName,
  architectures: v.optional(v.nullable(v.array(v.pipe(v.string(), v.regex(/^SCMP_ARCH_\w+$/))))),
  archMap: v.optional(
    v.nullable(
      v.array(
        v.strictObject({
          architecture: v.string(),
          subArchitectures: v.optional(v.nullable(v.array(v.string()))),
        }),
      ),
    ),
  ),
  flags: v.optional(v.nullable(v.array(v.pipe(v.string(), v.regex(/^SECCOMP_FILTER_FLAG_\w+$/))))),
  listenerPath: v.optional(v.string()),
  listenerMetadata: v.optional(v.string()),
  syscalls: v.optional(v.nullable(v.array(syscall)), []),
  $schema: v.optional(v.string()),
  comment: v.optional(v.nullable(v.string())),
});

type Profile = v.InferOutput<typeof profile>;
type Syscall = v.InferOutput<typeof syscall>;
type Filter = v.InferOutput<typeof filter>;

/**
 * Reads a profile in the OCI's form or in Docker's (archMap, includes, excludes) and decides the
 * latter's conditions for this container. Keys that nobody knows are errors: a typing mistake in a
 * security profile must not widen it.
 *
 * @throws Error with what is wrong and where.
 */
export function parseSeccompProfile(text: string, context: SeccompContext): OciSeccomp {
  const json: unknown = JSON.parse(text, keepDigits);
  checkSize(json);
  const result = v.safeParse(profile, json);
  if (!result.success) {
    const [issue] = result.issues;
    throw new Error(`${v.getDotPath(issue) ?? "the profile"}: ${issue.message}`);
  }
  const source = result.output;
  const syscalls = (source.syscalls ?? [])
    .filter((entry) => applies(entry, context))
    .map(toSyscall);
  checkNotify(source, syscalls);
  const errno = source.defaultErrnoRet ?? ERRNO[source.defaultErrno ?? ""];
  return {
    defaultAction: source.defaultAction,
    ...(errno === undefined ? {} : { defaultErrnoRet: errno }),
    architectures: architectures(source, context.arch),
    ...(source.flags ? { flags: source.flags } : {}),
    ...(source.listenerPath ? { listenerPath: source.listenerPath } : {}),
    ...(source.listenerMetadata ? { listenerMetadata: source.listenerMetadata } : {}),
    syscalls,
  };
}

/** Before all of them are checked. */
function checkSize(json: unknown): void {
  if (typeof json !== "object" || json === null || !("syscalls" in json)) return;
  const { syscalls } = json;
  if (Array.isArray(syscalls) && syscalls.length > MOST_RULES) {
    throw new Error(`syscalls: ${syscalls.length} entries, at most ${MOST_RULES}`);
  }
}

/** 64 bit masks do not fit a double. */
function keepDigits(_key: string, value: unknown, context?: { source?: string }): unknown {
  const source = context?.source ?? "";
  const big =
    typeof value === "number" && !Number.isSafeInteger(value) && /^\d{1,20}$/.test(source);
  return big ? ociNumber(source) : value;
}

function toSyscall(entry: Syscall): OciSyscall {
  const names = [...(entry.name ? [entry.name] : []), ...(entry.names ?? [])];
  if (names.length === 0) throw new Error("syscalls: an entry names no system call");
  const errno = entry.errnoRet ?? ERRNO[entry.errno ?? ""];
  return {
    names,
    action: entry.action,
    ...(errno === undefined ? {} : { errnoRet: errno }),
    ...(entry.args && entry.args.length > 0 ? { args: entry.args } : {}),
  };
}

/** The native architecture with its sub-architectures; none given is the native one alone. */
function architectures(source: Profile, arch: string): string[] {
  if (source.architectures && source.archMap && source.archMap.length > 0) {
    throw new Error("architectures and archMap are given; only one may be");
  }
  if (source.architectures) return source.architectures;
  const [native] = seccompArchitectures(arch);
  const entry = source.archMap?.find(({ architecture }) => architecture === native);
  return entry === undefined ? [] : [entry.architecture, ...(entry.subArchitectures ?? [])];
}

/** Go's names, as Docker's profiles use them. */
const GO_ARCH: Readonly<Record<string, readonly string[]>> = {
  x64: ["amd64"],
  arm64: ["arm64"],
};

function applies(entry: Syscall, context: SeccompContext): boolean {
  const { includes, excludes } = entry;
  return includesMatch(includes, context) && !excludesMatch(excludes, context);
}

/** All kinds of condition must hold; of capabilities every one, of architectures one. */
function includesMatch(filter: Filter, context: SeccompContext): boolean {
  const { caps, arches, minKernel } = filter ?? {};
  if (arches && arches.length > 0 && !hasArch(arches, context)) return false;
  if (caps && !caps.every((name) => context.capabilities.includes(name))) return false;
  return !minKernel || atLeast(context.kernel, minKernel);
}

/** One condition that holds is enough. */
function excludesMatch(filter: Filter, context: SeccompContext): boolean {
  const { caps, arches, minKernel } = filter ?? {};
  if (arches && hasArch(arches, context)) return true;
  if (caps?.some((name) => context.capabilities.includes(name))) return true;
  return minKernel ? atLeast(context.kernel, minKernel) : false;
}

function hasArch(arches: readonly string[], { arch }: SeccompContext): boolean {
  return (GO_ARCH[arch] ?? []).some((name) => arches.includes(name));
}

function atLeast(kernel: string, minimum: string): boolean {
  const [major = 0, minor = 0] = kernel.split(/[.-]/).map(Number);
  const [minMajor = 0, minMinor = 0] = minimum.split(".").map(Number);
  return major > minMajor || (major === minMajor && minor >= minMinor);
}

/** The OCI runtime hands the notifications to the socket that the profile names; Crib has none. */
function checkNotify(source: Profile, syscalls: readonly OciSyscall[]): void {
  const notify = [source, ...syscalls].some(
    (entry) => ("action" in entry ? entry.action : entry.defaultAction) === "SCMP_ACT_NOTIFY",
  );
  if (notify && !source.listenerPath) throw new Error("SCMP_ACT_NOTIFY needs listenerPath");
}
