/**
 * The built-in seccomp profile beside those of containerd 2.4 (contrib/seccomp) and CRI-O
 * (go.podman.io/common/pkg/seccomp of April 2026, as internal/config/seccomp changes it), call by call: each difference with its reason. Who
 * changes the profile has to say here how that compares.
 */
import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { defaultSeccomp } from "../../src/container/spec/seccomp-default.ts";

/** Of a container without capabilities on x86-64. "by arguments": some are allowed, some refused. */
type Fate = "allowed" | "EPERM" | "ENOSYS" | "by arguments";

interface Difference {
  calls: string;
  containerd: Fate;
  crio: Fate;
  crib: Fate;
  why: string;
}

const DIFFERENCES: Difference[] = [
  {
    calls: `fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree setns umount
      umount2`,
    containerd: "EPERM",
    crio: "allowed",
    crib: "EPERM",
    why: "what one can do in new namespaces is where the kernel's faults are",
  },
  {
    calls: "unshare",
    containerd: "EPERM",
    crio: "ENOSYS",
    crib: "EPERM",
    why: "known and forbidden",
  },
  {
    calls: "pivot_root",
    containerd: "EPERM",
    crio: "allowed",
    crib: "EPERM",
    why: "only of use with a mount namespace of one's own",
  },
  {
    calls: "get_mempolicy mbind pidfd_getfd reboot set_mempolicy syslog fanotify_init",
    containerd: "EPERM",
    crio: "allowed",
    crib: "EPERM",
    why: "a capability stands for each",
  },
  {
    calls: "set_mempolicy_home_node",
    containerd: "EPERM",
    crio: "ENOSYS",
    crib: "EPERM",
    why: "CAP_SYS_NICE, as its elder sisters",
  },
  {
    calls: "add_key keyctl request_key",
    containerd: "EPERM",
    crio: "ENOSYS",
    crib: "EPERM",
    why: "keyrings know no containers; CRI-O allows keyctl, which can do what the other two do",
  },
  {
    calls: "socketcall",
    containerd: "allowed",
    crio: "allowed",
    crib: "EPERM",
    why: "opens AF_ALG and AF_VSOCK; allowed where AppArmor refuses those",
  },
  {
    calls: "socket",
    containerd: "by arguments",
    crio: "by arguments",
    crib: "by arguments",
    why: "both compare 64 bits of the family; CRI-O allows AF_ALG; audit as CRI-O",
  },
  {
    calls: "socketpair",
    containerd: "allowed",
    crio: "allowed",
    crib: "by arguments",
    why: "it too loads a family's module and makes two sockets of it",
  },
  {
    calls: "personality",
    containerd: "by arguments",
    crio: "by arguments",
    crib: "by arguments",
    why: "both compare 64 bits: a query with -1 is refused",
  },
  {
    calls: "cachestat io_pgetevents io_pgetevents_time64 map_shadow_stack vmsplice",
    containerd: "allowed",
    crio: "EPERM",
    crib: "allowed",
    why: "CRI-O lists what its profile did not know once; no more reach than their elder sisters",
  },
  {
    calls: `getxattrat listmount listxattrat lsm_get_self_attr lsm_list_modules lsm_set_self_attr mseal
      removexattrat setxattrat statmount uretprobe`,
    containerd: "allowed",
    crio: "ENOSYS",
    crib: "allowed",
    why: "newer than CRI-O's list",
  },
  {
    calls: "readdir sigaction sigpending sigsuspend",
    containerd: "EPERM",
    crio: "ENOSYS",
    crib: "allowed",
    why: "what 32 bit programs have for getdents, rt_sigaction, rt_sigpending, rt_sigsuspend",
  },
  {
    calls: "signal",
    containerd: "EPERM",
    crio: "allowed",
    crib: "allowed",
    why: "the same",
  },
  {
    calls: `bdflush nice oldfstat oldlstat oldolduname oldstat olduname pciconfig_iobase pciconfig_read
      pciconfig_write query_module sgetmask ssetmask syscall`,
    containerd: "EPERM",
    crio: "EPERM",
    crib: "ENOSYS",
    why: "nobody has called them for twenty years: they need not be named",
  },
];

const builtIn = (capabilities: string[] = []) =>
  defaultSeccomp({ capabilities, arch: "x64", apparmor: false }).syscalls;

function fate(call: string): Fate {
  const rules = builtIn().filter(({ names }) => names.includes(call));
  const [first] = rules;
  if (first === undefined) return "ENOSYS";
  if (first.args !== undefined) return "by arguments";
  return first.action === "SCMP_ACT_ALLOW" ? "allowed" : "EPERM";
}

const words = (text: string) => text.split(/\s+/).filter((it) => it !== "");

describe("RuntimeDefault seccomp beside containerd's and CRI-O's", () => {
  test.each(DIFFERENCES)("$calls: $crib ($why)", ({ calls, crib }) => {
    for (const call of words(calls)) expect([call, fate(call)]).toEqual([call, crib]);
  });

  test("what else it allows is what both allow", () => {
    const different = new Set(DIFFERENCES.flatMap(({ calls }) => words(calls)));
    const allowed = new Set(
      builtIn()
        .filter(({ action }) => action === "SCMP_ACT_ALLOW")
        .flatMap(({ names }) => names),
    );
    const rest = [...allowed].filter((call) => !different.has(call)).sort();
    // Of the 354 calls that both peers allow, by arguments or not, these three are in the table.
    const all = [...rest, "personality", "socket", "socketpair"].sort();
    expect(all).toHaveLength(354);
    const digest = createHash("sha256").update(all.join("\n")).digest("hex");
    expect(digest).toBe("a6923ae8a9a7b1ec3813e4db09c976d7108402b4cc980fea01dfa89be4400338");
  });

  test("what a capability opens is what it opens in containerd's", () => {
    const opened = (capability: string) => {
      const allowed = builtIn([capability]).filter(
        ({ action, args }) => action === "SCMP_ACT_ALLOW" && args === undefined,
      );
      const plain = new Set(
        builtIn()
          .filter(({ action, args }) => action === "SCMP_ACT_ALLOW" && args === undefined)
          .flatMap(({ names }) => names),
      );
      return allowed
        .flatMap(({ names }) => names)
        .filter((call) => !plain.has(call))
        .sort()
        .join(" ");
    };
    const table: Record<string, string> = {
      CAP_BPF: "bpf",
      CAP_DAC_READ_SEARCH: "open_by_handle_at",
      CAP_PERFMON: "perf_event_open",
      CAP_SYSLOG: "syslog",
      CAP_SYS_ADMIN:
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount " +
        "mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname " +
        "sethostname setns syslog umount umount2 unshare",
      CAP_SYS_BOOT: "reboot",
      CAP_SYS_CHROOT: "chroot",
      CAP_SYS_MODULE: "delete_module finit_module init_module",
      CAP_SYS_NICE: "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
      CAP_SYS_PACCT: "acct",
      CAP_SYS_PTRACE: "kcmp pidfd_getfd process_madvise",
      CAP_SYS_RAWIO: "ioperm iopl",
      CAP_SYS_TIME: "clock_settime clock_settime64 settimeofday stime",
      CAP_SYS_TTY_CONFIG: "vhangup",
      // containerd opens nothing with these.
      CAP_NET_ADMIN: "",
      CAP_SYS_RESOURCE: "",
    };
    expect(Object.fromEntries(Object.keys(table).map((name) => [name, opened(name)]))).toEqual(
      table,
    );
  });

  // libseccomp does not say which of two rules wins that overlap; the kernel takes 32 bits of each.
  test.each(["socket", "socketpair", "clone", "personality"])(
    "compares 32 bits of %s's arguments, with no two rules of different outcome that meet",
    (call) => {
      const rules = builtIn().filter(({ names }) => names.includes(call));
      const conditions = rules.map(({ action, errnoRet, args = [] }) => ({
        outcome: `${action} ${errnoRet}`,
        args: args.map(({ index, op, value, valueTwo }) => {
          expect(op).toBe("SCMP_CMP_MASKED_EQ");
          expect(value).toBeLessThan(2 ** 32);
          return { index, mask: BigInt(Number(value)), bits: BigInt(Number(valueTwo)) };
        }),
      }));
      for (const a of conditions) {
        for (const b of conditions.filter(({ outcome }) => outcome !== a.outcome)) {
          const apart = a.args.some((x) =>
            b.args.some((y) => x.index === y.index && ((x.bits ^ y.bits) & x.mask & y.mask) !== 0n),
          );
          expect([a, b, apart]).toEqual([a, b, true]);
        }
      }
    },
  );
});
