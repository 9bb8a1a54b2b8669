/** What the kernel gives, and what is wrong with it. Pure: the facts come from facts.ts. */
import { type Finding, fail, ok, warn } from "./finding.ts";

/** Of a kernel module. "unknown": not loaded, and no list tells what there is. */
export type ModuleState = "there" | "loadable" | "absent" | "unknown";

export interface KernelFacts {
  /** uname -r */
  release: string;
  cgroups: { version: 1 | 2; controllers: readonly string[] } | { problem: string };
  modules: Readonly<Record<"overlay" | "veth" | "bridge" | "br_netfilter", ModuleState>>;
  /** /proc/sys/kernel/seccomp/actions_avail; "" without seccomp filters. */
  seccompActions: string;
  /** Names in /proc/self/ns. */
  namespaces: readonly string[];
  /** By name; undefined: there is no such sysctl. */
  sysctls: Readonly<Record<string, string | undefined>>;
  capabilities: readonly string[];
  swapAccounting: boolean;
  /** Some swap space is in use. */
  swapOn: boolean;
  apparmor: boolean;
  hasAppArmorParser: boolean;
  selinux: "off" | "permissive" | "enforcing";
  /** Whether mounts below "/" reach other mount namespaces. */
  rootIsShared: boolean;
}

/** openat2(2), by which archives are unpacked safely. */
const OLDEST_KERNEL = [5, 6] as const;
const NEEDED_CONTROLLERS = ["cpu", "memory", "pids"];
const USEFUL_CONTROLLERS = { cpuset: "static CPU managers", hugetlb: "hugepage limits" };
const NEEDED_CAPABILITIES = ["SYS_ADMIN", "NET_ADMIN", "SYS_CHROOT", "MKNOD", "CHOWN", "SETUID"];
const NEEDED_NAMESPACES = ["mnt", "net", "pid", "ipc", "uts"];
const FEWEST_INOTIFY_INSTANCES = 512;

/** The sysctls that `checkKernel` looks at. */
export const SYSCTLS = [
  "net.ipv4.ip_forward",
  "net.bridge.bridge-nf-call-iptables",
  "fs.inotify.max_user_instances",
  "user.max_net_namespaces",
  "user.max_pid_namespaces",
  "dev.tty.legacy_tiocsti",
];

export function checkKernel(facts: KernelFacts): Finding[] {
  return [
    kernelVersion(facts),
    privileges(facts),
    ...cgroups(facts),
    overlay(facts),
    namespaces(facts),
    seccomp(facts),
    network(facts),
    forwarding(facts),
    bridgeFilter(facts),
    inotify(facts),
    ...terminals(facts),
    propagation(facts),
    swap(facts),
    securityModules(facts),
  ];
}

function kernelVersion({ release }: KernelFacts): Finding {
  const [major = 0, minor = 0] = release.split(".").map((part) => Number.parseInt(part, 10));
  const [oldestMajor, oldestMinor] = OLDEST_KERNEL;
  if (major > oldestMajor || (major === oldestMajor && minor >= oldestMinor)) {
    return ok("kernel", release);
  }
  const oldest = OLDEST_KERNEL.join(".");
  return fail("kernel", `${release}: Crib needs ${oldest}`, `boot a kernel of ${oldest} or newer`);
}

function privileges({ capabilities }: KernelFacts): Finding {
  const missing = NEEDED_CAPABILITIES.filter((name) => !capabilities.includes(name));
  if (missing.length > 0) {
    return fail(
      "privileges",
      `without ${missing.map((name) => `CAP_${name}`).join(", ")}`,
      "run crib as root with all capabilities: sudo crib check",
    );
  }
  if (!capabilities.includes("SYS_RESOURCE")) {
    return warn(
      "privileges",
      "without CAP_SYS_RESOURCE: containers cannot be protected from the OOM killer",
      "run crib with all capabilities (CapabilityBoundingSet of a unit, or of an outer container)",
    );
  }
  return ok("privileges", "all that Crib needs");
}

function cgroups({ cgroups: found }: KernelFacts): Finding[] {
  if ("problem" in found) {
    const remedy = "mount -t cgroup2 none /sys/fs/cgroup";
    return [fail("cgroups", found.problem, remedy)];
  }
  const { version, controllers } = found;
  const list = [...controllers].sort().join(", ");
  const findings: Finding[] = [];
  if (version === 2) {
    findings.push(ok("cgroups", `v2: ${list}`));
  } else {
    const message = "v1: Kubernetes has given it up (the kubelet needs failCgroupV1: false)";
    const remedy = "boot with systemd.unified_cgroup_hierarchy=1 (and no cgroup_no_v1)";
    findings.push(warn("cgroups", message, remedy));
  }
  const missing = NEEDED_CONTROLLERS.filter((name) => !controllers.includes(name));
  if (missing.length > 0) {
    const remedy = missing.includes("memory")
      ? "boot with cgroup_enable=memory; see /proc/cgroups"
      : "see /proc/cgroups, and cgroup.subtree_control of the parents";
    findings.push(fail("controllers", `without ${missing.join(", ")}`, remedy));
  } else {
    findings.push(ok("controllers", NEEDED_CONTROLLERS.join(", ")));
  }
  // v1 has blkio where v2 has io.
  const useful = { [version === 2 ? "io" : "blkio"]: "disk figures", ...USEFUL_CONTROLLERS };
  const lacks = Object.entries(useful).filter(([name]) => !controllers.includes(name));
  if (lacks.length > 0) {
    const what = lacks.map(([name, use]) => `${name} (${use})`).join(", ");
    findings.push(warn("controllers", `without ${what}`, "only if you use it; see /proc/cgroups"));
  }
  return findings;
}

function overlay({ modules }: KernelFacts): Finding {
  if (modules.overlay === "there") return ok("overlayfs", "there");
  if (modules.overlay === "loadable") return ok("overlayfs", "a module, loaded when first used");
  return fail("overlayfs", "not in this kernel", "modprobe overlay, or boot a kernel that has it");
}

function namespaces({ namespaces: found, sysctls }: KernelFacts): Finding {
  const missing = NEEDED_NAMESPACES.filter((name) => !found.includes(name));
  if (missing.length > 0) {
    const remedy = "boot a kernel with CONFIG_NAMESPACES and its parts";
    return fail("namespaces", `without ${missing.join(", ")}`, remedy);
  }
  const limited = ["user.max_net_namespaces", "user.max_pid_namespaces"].find(
    (name) => sysctls[name] === "0",
  );
  if (limited !== undefined) {
    return fail("namespaces", `${limited} is 0`, `sysctl -w ${limited}=65536`);
  }
  return ok("namespaces", NEEDED_NAMESPACES.join(", "));
}

function seccomp({ seccompActions }: KernelFacts): Finding {
  if (seccompActions.includes("errno")) return ok("seccomp", "filters");
  const message = "no filters: no image can be pulled, and no pod with RuntimeDefault can run";
  return fail("seccomp", message, "boot a kernel with CONFIG_SECCOMP_FILTER");
}

function network({ modules, release }: KernelFacts): Finding {
  const names = ["veth", "bridge"] as const;
  const absent = names.filter((name) => modules[name] === "absent");
  if (absent.length > 0) {
    const list = absent.join(", ");
    const message = `without ${list}: the usual CNI plugins need it`;
    return fail("network modules", message, `install the kernel's modules; modprobe ${list}`);
  }
  const unknown = names.filter((name) => modules[name] === "unknown");
  if (unknown.length > 0) {
    const message = `${unknown.join(", ")}: cannot tell, there is no /lib/modules/${release}`;
    return warn("network modules", message, "only if pods fail to start for want of it");
  }
  return ok("network modules", names.join(", "));
}

function forwarding({ sysctls }: KernelFacts): Finding {
  if (sysctls["net.ipv4.ip_forward"] === "1") return ok("ip_forward", "on");
  return fail(
    "ip_forward",
    "off: pods cannot reach other hosts",
    "echo net.ipv4.ip_forward=1 > /etc/sysctl.d/90-crib.conf && sysctl --system",
  );
}

function bridgeFilter({ sysctls, modules }: KernelFacts): Finding {
  const name = "net.bridge.bridge-nf-call-iptables";
  if (sysctls[name] === "1") return ok("bridge filter", "br_netfilter, on");
  if (sysctls[name] !== undefined) {
    const message = `${name} is ${sysctls[name]}: services may not work between pods of one node`;
    return warn(
      "bridge filter",
      message,
      `echo ${name}=1 > /etc/sysctl.d/90-crib-bridge.conf && sysctl --system`,
    );
  }
  return warn(
    "bridge filter",
    "br_netfilter is not loaded: services may not work between pods of one node",
    modules.br_netfilter === "absent"
      ? "install the kernel's modules, or use a CNI network without bridges"
      : "modprobe br_netfilter && echo br_netfilter > /etc/modules-load.d/crib.conf",
  );
}

function inotify({ sysctls }: KernelFacts): Finding {
  const name = "fs.inotify.max_user_instances";
  const value = Number(sysctls[name] ?? 0);
  if (value >= FEWEST_INOTIFY_INSTANCES) return ok("inotify", `${value} instances a user`);
  return warn(
    "inotify",
    `${value} instances for all of root's containers together`,
    `echo ${name}=8192 > /etc/sysctl.d/90-crib-inotify.conf && sysctl --system`,
  );
}

/** RuntimeDefault seccomp leaves it to the kernel, as the peers' profiles do. Kernels before 6.2 always have it. */
function terminals({ sysctls }: KernelFacts): Finding[] {
  const name = "dev.tty.legacy_tiocsti";
  if (sysctls[name] !== "1") return [];
  const message = `${name} is 1: a process can type into its terminal what others then run`;
  const remedy = `echo ${name}=0 > /etc/sysctl.d/90-crib-tty.conf && sysctl --system`;
  return [warn("terminals", message, remedy)];
}

function propagation({ rootIsShared }: KernelFacts): Finding {
  if (rootIsShared) return ok("mount propagation", '"/" is shared');
  return warn(
    "mount propagation",
    '"/" is not shared: volumes with mountPropagation do not propagate',
    "mount --make-rshared / (systemd does it at boot)",
  );
}

function swap({ swapAccounting, swapOn }: KernelFacts): Finding {
  if (swapOn) {
    const message = "swap is on: the kubelet does not start (failSwapOn)";
    return warn("swap", message, "swapoff -a, or failSwapOn: false in the kubelet's configuration");
  }
  if (swapAccounting) return ok("swap", "off; cgroups can limit it");
  return warn("swap", "off; cgroups do not limit it", "boot with swapaccount=1 if you will use it");
}

function securityModules({ apparmor, hasAppArmorParser, selinux }: KernelFacts): Finding {
  if (selinux === "enforcing") {
    const message = "SELinux is enforcing, and Crib sets no labels yet: containers may be denied";
    return warn("security modules", message, "setenforce 0, or a node without SELinux");
  }
  if (apparmor && !hasAppArmorParser) {
    const message = "AppArmor is on without apparmor_parser: containers get no default profile";
    return warn("security modules", message, "apt-get install apparmor");
  }
  const on = [apparmor ? "AppArmor" : "", selinux === "permissive" ? "SELinux (permissive)" : ""];
  return ok("security modules", on.filter(Boolean).join(", ") || "none");
}
