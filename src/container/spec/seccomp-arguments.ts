/**
 * Calls of the built-in seccomp profile that are decided by their arguments.
 *
 * A filter compares 64 bits where the kernel takes 32 of them: socket(40 | 1 << 32) opens what
 * socket(40) opens. So every condition here masks the upper half. And an OCI runtime turns several
 * conditions on one argument into alternatives, and libseccomp leaves open which of two rules that
 * overlap wins: so no rule here overlaps one of another action.
 *
 * ioctl(2) is not among them. "All but TIOCSTI" takes 32 rules, and each ioctl then runs the filter, which
 * the kernel skips for calls that are allowed whatever their arguments: 0.6 to 1.7 µs was measured.
 * The peers leave it to the kernel too (dev.tty.legacy_tiocsti).
 */
import type { OciSyscall, OciSyscallArgument } from "./oci.ts";

export const EPERM = 1;
const EINVAL = 22;

/** clone(2) flags that make a namespace: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. */
const CLONE_NAMESPACES = [
  0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000,
];
/** personality(2): PER_LINUX, PER_LINUX32, both with UNAME26, and the query. */
const PERSONALITIES = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

const AF_NETLINK = 16;
/** Address families whose code is reachable from any container and does not know namespaces. */
const AF_ALG = 38;
const AF_VSOCK = 40;
/** The last family of Linux 6.18 (AF_MCTP); one that comes later is as unknown as a new call. */
const LAST_FAMILY = 45;
const NETLINK_AUDIT = 9;
/** MAX_LINKS - 1 of linux/netlink.h. */
const LAST_PROTOCOL = 31;

/** An argument's lower 32 bits, those in `mask`, are `value`. */
function equals(index: number, value: number, mask = 0xffff_ffff): OciSyscallArgument {
  return { index, value: mask, valueTwo: value, op: "SCMP_CMP_MASKED_EQ" };
}

/** One condition for each aligned block of a power of two that `first` to `last` is made of. */
function between(index: number, first: number, last: number): OciSyscallArgument[] {
  const conditions: OciSyscallArgument[] = [];
  for (let from = first; from <= last; ) {
    let size = 1;
    while (from % (size * 2) === 0 && from + size * 2 - 1 <= last) size *= 2;
    conditions.push(equals(index, from, 2 ** 32 - size));
    from += size;
  }
  return conditions;
}

/** clone3 passes its flags in memory, which a filter cannot see: ENOSYS makes libc use clone. */
export function cloneRules(): OciSyscall[] {
  const all = CLONE_NAMESPACES.reduce((mask, flag) => mask + flag, 0);
  return [
    allow(["clone"], equals(0, 0, all)),
    ...CLONE_NAMESPACES.map((flag) => refuse(["clone"], EPERM, equals(0, flag, flag))),
  ];
}

export function personalityRules(): OciSyscall[] {
  return PERSONALITIES.map((value) => allow(["personality"], equals(0, value)));
}

/**
 * socket(2) and socketpair(2) of all families but AF_ALG and AF_VSOCK. `audit`: CAP_AUDIT_WRITE; who
 * has it not is told that there is no audit, which PAM takes, and not that it may not.
 *
 * The older socketcall(2) of 32 bit programs has the family in memory. `socketcall`: something else than
 * seccomp refuses the two families (AppArmor's rules are about the socket, however it was asked for).
 * It must be decided before: libseccomp allows it along with each `socket` that a rule allows.
 */
export function socketRules({
  audit,
  socketcall,
}: {
  audit: boolean;
  socketcall: boolean;
}): OciSyscall[] {
  const names = ["socket", "socketpair"];
  const others = [
    ...between(0, 0, AF_NETLINK - 1),
    ...between(0, AF_NETLINK + 1, AF_ALG - 1),
    ...between(0, AF_ALG + 1, AF_VSOCK - 1),
    ...between(0, AF_VSOCK + 1, LAST_FAMILY),
  ];
  const netlink = equals(0, AF_NETLINK);
  const protocols = [
    ...between(2, 0, NETLINK_AUDIT - 1),
    ...between(2, NETLINK_AUDIT + 1, LAST_PROTOCOL),
  ];
  return [
    socketcall ? allow(["socketcall"]) : refuse(["socketcall"], EPERM),
    ...others.map((family) => allow(names, family)),
    ...(audit
      ? [allow(names, netlink)]
      : [
          ...protocols.map((protocol) => allow(names, netlink, protocol)),
          refuse(names, EINVAL, netlink, equals(2, NETLINK_AUDIT)),
        ]),
    ...[AF_ALG, AF_VSOCK].map((family) => refuse(names, EPERM, equals(0, family))),
  ];
}

export function allow(names: string[], ...args: OciSyscallArgument[]): OciSyscall {
  return { names, action: "SCMP_ACT_ALLOW", ...(args.length > 0 ? { args } : {}) };
}

export function refuse(
  names: string[],
  errnoRet: number,
  ...args: OciSyscallArgument[]
): OciSyscall {
  return { names, action: "SCMP_ACT_ERRNO", errnoRet, ...(args.length > 0 ? { args } : {}) };
}
