import { describe, expect, test } from "bun:test";
import { checkEngines, type EngineFacts } from "../../src/cli/check/engines.ts";
import { ESCAPES, knownEscapes } from "../../src/cli/check/escapes.ts";
import { type Finding, fail, ok, warn } from "../../src/cli/check/finding.ts";
import { checkKernel, type KernelFacts } from "../../src/cli/check/kernel.ts";
import { checkPlaces, type Place, type PlaceFacts } from "../../src/cli/check/places.ts";
import { renderJson, renderText } from "../../src/cli/check.ts";

const GIB = 1024 ** 3;

const kernel: KernelFacts = {
  release: "6.12.9-amd64",
  cgroups: { version: 2, controllers: ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"] },
  modules: { overlay: "loadable", veth: "loadable", bridge: "there", br_netfilter: "there" },
  seccompActions: "kill_process kill_thread trap errno trace log allow",
  namespaces: ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"],
  sysctls: {
    "net.ipv4.ip_forward": "1",
    "net.bridge.bridge-nf-call-iptables": "1",
    "fs.inotify.max_user_instances": "8192",
    "user.max_net_namespaces": "100",
    "user.max_pid_namespaces": "100",
  },
  capabilities: "SYS_ADMIN NET_ADMIN SYS_CHROOT MKNOD CHOWN SETUID SYS_RESOURCE".split(" "),
  swapAccounting: true,
  swapOn: false,
  apparmor: true,
  hasAppArmorParser: true,
  selinux: "off",
  rootIsShared: true,
};

const disk: Place = {
  path: "/var/lib/crib",
  type: "ext4",
  options: ["rw", "relatime"],
  freeBytes: 50 * GIB,
  sizeBytes: 100 * GIB,
  freeInodes: 900,
  inodes: 1000,
};
const run: Place = { ...disk, path: "/run/crib", type: "tmpfs", freeBytes: GIB, sizeBytes: GIB };

const places: PlaceFacts = {
  root: disk,
  state: run,
  socket: { path: "/run/crib/crib.sock", use: { kind: "free" } },
  cadvisor: { path: "/var/run/crio/crio.sock", use: { kind: "free" } },
};

const crun = { name: "crun", path: "/usr/bin/crun", version: "crun version 1.28", problem: "" };
const engines: EngineFacts = {
  handlers: [crun],
  defaultHandler: "crun",
  cgroupDriver: { configured: "auto", systemd: true, bus: true },
  cni: {
    confDir: "/etc/cni/net.d",
    binDirs: ["/opt/cni/bin"],
    problem: "",
    plugins: ["bridge", "portmap"],
    mapsHostPorts: true,
  },
  iptables: "/usr/sbin/iptables",
  nft: "",
};

const onKernel = (changes: Partial<KernelFacts>) => checkKernel({ ...kernel, ...changes });
const onPlaces = (changes: Partial<PlaceFacts>) => checkPlaces({ ...places, ...changes });
const onEngines = (changes: Partial<EngineFacts>) => checkEngines({ ...engines, ...changes });
const sysctl = (name: string, value: string | undefined) =>
  onKernel({ sysctls: { ...kernel.sysctls, [name]: value } });
const without = (name: string) =>
  onKernel({ capabilities: kernel.capabilities.filter((it) => it !== name) });
const modules = (changes: Partial<KernelFacts["modules"]>) =>
  onKernel({ modules: { ...kernel.modules, ...changes } });
const controllers = (...names: string[]) =>
  onKernel({ cgroups: { version: 2, controllers: names } });

describe("a good node", () => {
  test.each([
    ["kernel", checkKernel(kernel)],
    ["places", checkPlaces(places)],
    ["engines", checkEngines(engines)],
  ])("is green throughout: %s", (_, findings) => {
    expect(findings.filter(({ level }) => level !== "ok")).toEqual([]);
    expect(findings.length).toBeGreaterThan(3);
  });
});

/** One fact is changed: exactly one finding changes its level, and says why and what to do. */
type Case = [
  what: string,
  findings: Finding[],
  level: "warn" | "fail",
  check: string,
  says: RegExp,
  remedy: RegExp | undefined,
];

const kernelCases: Case[] = [
  ["an old kernel", onKernel({ release: "5.4.0-1" }), "fail", "kernel", /needs 5\.6/, /5\.6/],
  ["a kernel of long ago", onKernel({ release: "4.19.0" }), "fail", "kernel", /4\.19/, /boot/],
  ["no root", without("SYS_ADMIN"), "fail", "privileges", /CAP_SYS_ADMIN/, /sudo/],
  ["no CAP_SYS_RESOURCE", without("SYS_RESOURCE"), "warn", "privileges", /OOM/, /capabilities/],
  [
    "no cgroups",
    onKernel({ cgroups: { problem: "no cgroup file system is mounted" } }),
    "fail",
    "cgroups",
    /mounted/,
    /mount -t cgroup2/,
  ],
  [
    "cgroup v1",
    onKernel({
      cgroups: {
        version: 1,
        controllers: ["cpu", "memory", "pids", "blkio", "cpuset", "hugetlb"],
      },
    }),
    "warn",
    "cgroups",
    /failCgroupV1/,
    /unified_cgroup_hierarchy/,
  ],
  [
    "no memory controller",
    controllers("cpu", "pids", "io", "cpuset", "hugetlb"),
    "fail",
    "controllers",
    /without memory/,
    /cgroup_enable=memory/,
  ],
  [
    "no pids controller",
    controllers("cpu", "memory", "io", "cpuset", "hugetlb"),
    "fail",
    "controllers",
    /without pids/,
    /subtree_control/,
  ],
  [
    "no cpuset controller",
    controllers("cpu", "memory", "pids", "io", "hugetlb"),
    "warn",
    "controllers",
    /cpuset \(static CPU/,
    /only if/,
  ],
  ["no overlayfs", modules({ overlay: "absent" }), "fail", "overlayfs", /not in/, /modprobe/],
  [
    "overlayfs that nobody knows of",
    modules({ overlay: "unknown" }),
    "fail",
    "overlayfs",
    /not in/,
    /modprobe/,
  ],
  [
    "no network namespaces",
    onKernel({ namespaces: ["mnt", "pid", "ipc", "uts"] }),
    "fail",
    "namespaces",
    /without net/,
    /CONFIG_NAMESPACES/,
  ],
  [
    "namespaces limited to none",
    sysctl("user.max_net_namespaces", "0"),
    "fail",
    "namespaces",
    /is 0/,
    /sysctl -w user\.max_net_namespaces/,
  ],
  ["no seccomp", onKernel({ seccompActions: "" }), "fail", "seccomp", /no filters/, /CONFIG/],
  ["no veth", modules({ veth: "absent" }), "fail", "network modules", /without veth/, /modprobe/],
  [
    "no list of modules",
    modules({ veth: "unknown", bridge: "unknown" }),
    "warn",
    "network modules",
    /veth, bridge: cannot tell/,
    /only if/,
  ],
  ["forwarding off", sysctl("net.ipv4.ip_forward", "0"), "fail", "ip_forward", /off/, /sysctl\.d/],
  [
    "no IPv4 at all",
    sysctl("net.ipv4.ip_forward", undefined),
    "fail",
    "ip_forward",
    /off/,
    /sysctl\.d/,
  ],
  [
    "bridge filter off",
    sysctl("net.bridge.bridge-nf-call-iptables", "0"),
    "warn",
    "bridge filter",
    /is 0/,
    /sysctl/,
  ],
  [
    "br_netfilter not loaded",
    sysctl("net.bridge.bridge-nf-call-iptables", undefined),
    "warn",
    "bridge filter",
    /not loaded/,
    /modprobe br_netfilter/,
  ],
  [
    "TIOCSTI",
    sysctl("dev.tty.legacy_tiocsti", "1"),
    "warn",
    "terminals",
    /legacy_tiocsti is 1/,
    /legacy_tiocsti=0/,
  ],
  [
    "few inotify instances",
    sysctl("fs.inotify.max_user_instances", "128"),
    "warn",
    "inotify",
    /128/,
    /8192/,
  ],
  [
    "a private root",
    onKernel({ rootIsShared: false }),
    "warn",
    "mount propagation",
    /not shared/,
    /make-rshared/,
  ],
  ["swap", onKernel({ swapOn: true }), "warn", "swap", /failSwapOn/, /swapoff/],
  [
    "no swap accounting",
    onKernel({ swapAccounting: false }),
    "warn",
    "swap",
    /do not limit/,
    /swapaccount=1/,
  ],
  [
    "SELinux enforcing",
    onKernel({ selinux: "enforcing" }),
    "warn",
    "security modules",
    /enforcing/,
    /setenforce/,
  ],
  [
    "AppArmor without its parser",
    onKernel({ hasAppArmorParser: false }),
    "warn",
    "security modules",
    /without apparmor_parser/,
    /install apparmor/,
  ],
];

const root = (changes: Partial<Place>) => onPlaces({ root: { ...disk, ...changes } });
const state = (changes: Partial<Place>) => onPlaces({ state: { ...run, ...changes } });
const socket = (use: PlaceFacts["socket"]["use"]) =>
  onPlaces({ socket: { ...places.socket, use } });
const cadvisor = (use: PlaceFacts["cadvisor"]["use"]) =>
  onPlaces({ cadvisor: { ...places.cadvisor, use } });

const placeCases: Case[] = [
  ["images on NFS", root({ type: "nfs4" }), "fail", "root", /nfs4/, /local disk/],
  ["images on an overlay", root({ type: "overlay" }), "fail", "root", /overlay,/, /local disk/],
  ["images in memory", root({ type: "tmpfs" }), "warn", "root", /memory/, undefined],
  ["a full disk", root({ freeBytes: 1e6 }), "fail", "space", /0 MiB of 100/, /crib\.root/],
  ["a fuller disk", root({ freeBytes: 14 * GIB }), "warn", "space", /15 %/, /room/],
  ["few inodes", root({ freeInodes: 49 }), "warn", "space", /49 of 1000 inodes/, /small files/],
  ["state on a disk", state({ type: "ext4" }), "warn", "state", /reboot/, /tmpfs/],
  [
    "nothing to run monitors from",
    onPlaces({
      root: { ...disk, options: ["rw", "noexec"] },
      state: { ...run, options: ["rw", "noexec"] },
    }),
    "fail",
    "state",
    /both mounted noexec/,
    /remount,exec/,
  ],
  ["a full /run", state({ freeBytes: 15 * 2 ** 20 }), "fail", "space", /15 MiB/, /du -xd1/],
  ["a fuller /run", state({ freeBytes: 63 * 2 ** 20 }), "warn", "space", /63 MiB/, /remount/],
  [
    "a socket that is taken",
    socket({ kind: "other" }),
    "fail",
    "socket",
    /another program/,
    /crib\.socket/,
  ],
  [
    "a file for a socket",
    socket({ kind: "no-socket" }),
    "fail",
    "socket",
    /no socket/,
    /remove it/,
  ],
  [
    "a CRI-O",
    cadvisor({ kind: "other" }),
    "warn",
    "metrics",
    /another runtime's/,
    /cadvisor\.socket/,
  ],
  ["a dead CRI-O", cadvisor({ kind: "dead" }), "warn", "metrics", /nobody answers/, /remove it/],
  [
    "metrics switched off",
    onPlaces({ cadvisor: { path: "", use: { kind: "free" } } }),
    "warn",
    "metrics",
    /is off/,
    undefined,
  ],
];

const broken = { ...crun, problem: "cgroups in hybrid mode not supported" };
const runc = { ...crun, name: "runc", path: "/usr/sbin/runc", version: "runc version 1.4.3" };
const driver = (changes: Partial<EngineFacts["cgroupDriver"]>) =>
  onEngines({ cgroupDriver: { ...engines.cgroupDriver, ...changes } });
const cni = (changes: Partial<EngineFacts["cni"]>) =>
  onEngines({ cni: { ...engines.cni, ...changes } });

const engineCases: Case[] = [
  ["no OCI runtime", onEngines({ handlers: [] }), "fail", "OCI runtime", /neither/, /apt install/],
  [
    "one that does not work, of one",
    onEngines({ handlers: [broken], defaultHandler: "" }),
    "fail",
    "OCI runtime crun",
    /crun version 1\.28: cgroups in hybrid/,
    /apt install/,
  ],
  [
    "one that does not work, of two",
    onEngines({ handlers: [broken, runc], defaultHandler: "runc" }),
    "warn",
    "OCI runtime crun",
    /hybrid/,
    /only if/,
  ],
  [
    "the chosen one does not work",
    onEngines({ handlers: [broken, runc], defaultHandler: "crun" }),
    "fail",
    "OCI runtime crun",
    /hybrid/,
    /install/,
  ],
  [
    "one of which escapes are known",
    onEngines({
      handlers: [{ ...runc, version: "runc version 1.1.5+ds1" }],
      defaultHandler: "runc",
    }),
    "warn",
    "OCI runtime runc",
    /1\.1\.5\+ds1: older than the fixes of CVE-2024-21626, .*CVE-2025-52881/,
    /distribution/,
  ],
  [
    "the chosen one is not there",
    onEngines({ defaultHandler: "kata" }),
    "fail",
    "OCI runtime",
    /"kata" is not there/,
    /runtime\.handlers/,
  ],
  [
    "systemd asked for and absent",
    driver({ configured: "systemd", systemd: false }),
    "fail",
    "cgroup driver",
    /does not run here/,
    /cgroupfs/,
  ],
  ["systemd without D-Bus", driver({ bus: false }), "fail", "cgroup driver", /D-Bus/, /dbus/],
  [
    "cgroupfs under systemd",
    driver({ configured: "cgroupfs" }),
    "warn",
    "cgroup driver",
    /same tree/,
    /"systemd"/,
  ],
  [
    "no network",
    cni({ problem: "there is no CNI configuration file", plugins: [] }),
    "fail",
    "CNI",
    /no CNI configuration/,
    /host-local.*\/opt\/cni\/bin.*\.conflist/,
  ],
  [
    "a network that maps no host ports",
    cni({ mapsHostPorts: false }),
    "warn",
    "host ports",
    /pods with host ports are refused/,
    /portMappings.*\/etc\/cni\/net\.d.*assumed_capabilities/,
  ],
  [
    "a plugin that is missing",
    cni({ problem: "10.conflist: CNI plugin bridge: no such executable" }),
    "fail",
    "CNI",
    /bridge/,
    /containernetworking-plugins/,
  ],
  [
    "host ports without a firewall",
    onEngines({ iptables: "" }),
    "fail",
    "iptables",
    /portmap plugin needs/,
    /apt install iptables/,
  ],
  [
    "host ports with nft alone",
    onEngines({ iptables: "", nft: "/usr/sbin/nft" }),
    "warn",
    "iptables",
    /before 1\.6/,
    /apt install/,
  ],
  [
    "no firewall and no host ports",
    onEngines({ iptables: "", cni: { ...engines.cni, plugins: ["ptp"] } }),
    "warn",
    "iptables",
    /no host ports/,
    /apt install/,
  ],
];

describe("what a node lacks is told", () => {
  test.each([...kernelCases, ...placeCases, ...engineCases])("%s", (...it) => {
    const [, findings, level, check, says, remedy] = it;
    const found = findings.filter((finding) => finding.level !== "ok");
    expect(found).toHaveLength(1);
    expect(found[0]).toMatchObject({ level, check });
    expect(found[0]?.message).toMatch(says);
    if (remedy === undefined) expect(found[0]?.remedy).toBeUndefined();
    else expect(found[0]?.remedy).toMatch(remedy);
  });

  test("a read-only root or state says just that", () => {
    expect(root({ options: ["ro"], freeBytes: 0 }).filter(({ level }) => level !== "ok")).toEqual([
      fail(
        "root",
        "/var/lib/crib is mounted read-only",
        "mount -o remount,rw it, or set crib.root",
      ),
    ]);
    expect(state({ options: ["ro"] }).filter(({ level }) => level !== "ok")).toHaveLength(1);
  });
});

describe("what is fine in another way stays green", () => {
  const green = (findings: Finding[]) => findings.every(({ level }) => level === "ok");
  test.each([
    ["a kernel just new enough", onKernel({ release: "5.6.0" })],
    ["the next major", onKernel({ release: "7.0.0-rc1" })],
    ["cgroupfs without systemd", driver({ systemd: false, bus: false })],
    ["systemd asked for", driver({ configured: "systemd" })],
    ["a Crib at its socket", socket({ kind: "crib", name: "crib 0.1.0" })],
    ["a dead socket", socket({ kind: "dead" })],
    ["a Crib at CRI-O's socket", cadvisor({ kind: "crib", name: "crib" })],
    ["no count of inodes (btrfs)", root({ type: "btrfs", inodes: 0, freeInodes: 0 })],
    ["a /run without exec, as Debian's", state({ options: ["rw", "noexec"] })],
    ["xfs", root({ type: "xfs" })],
    ["no LSM", onKernel({ apparmor: false, hasAppArmorParser: false })],
    ["SELinux permissive", onKernel({ selinux: "permissive" })],
    [
      "nft and no portmap",
      onEngines({ iptables: "", nft: "/nft", cni: { ...engines.cni, plugins: [] } }),
    ],
  ])("%s", (_, findings) => {
    expect(green(findings)).toBe(true);
  });
});

describe("the report", () => {
  const findings = [
    ok("kernel", "6.12"),
    warn("swap", "on"),
    fail("CNI", "line 1\nline 2", "install it"),
  ];

  test("marks each line, puts the remedy under it, and counts", () => {
    expect(renderText(findings).split("\n")).toEqual([
      "✓ kernel  6.12",
      "! swap    on",
      "✗ CNI     line 1",
      "          line 2",
      "          → install it",
      "",
      "1 ok, 1 to know (!), 1 missing (✗)",
      "",
    ]);
  });

  test("for machines is JSON that says whether all is there", () => {
    const parsed = JSON.parse(renderJson(findings));
    expect(parsed.ok).toBe(false);
    expect(parsed.findings[2]).toEqual({
      check: "CNI",
      level: "fail",
      message: "line 1\nline 2",
      remedy: "install it",
    });
    expect(JSON.parse(renderJson(findings.slice(0, 2))).ok).toBe(true);
  });
});

describe("known escapes", () => {
  const [leak, low, masked, dev] = [
    "CVE-2024-21626",
    "CVE-2024-45310",
    ["CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"],
    "CVE-2026-41579",
  ] as const;
  test.each<[string, string[]]>([
    ["runc version 1.0.0-rc6", ESCAPES.runc.map(({ cve }) => cve)],
    ["runc version 1.0.0-rc95", ESCAPES.runc.slice(2).map(({ cve }) => cve)],
    ["runc version 1.1.4", ["CVE-2023-27561", "CVE-2023-28642", leak, low, ...masked, dev]],
    ["runc version 1.1.5+ds1", [leak, low, ...masked, dev]],
    ["runc version 1.1.12", [low, ...masked, dev]],
    ["runc version 1.1.15+ds1", [...masked, dev]],
    ["runc version 1.2.0-rc.2", [low, ...masked, dev]],
    ["runc version 1.2.7", [...masked, dev]],
    ["runc version 1.2.9", [dev]],
    ["runc version 1.3.2", [...masked, dev]],
    ["runc version 1.3.3", [dev]],
    ["runc version 1.3.6", []],
    ["runc version 1.4.0-rc.2", [...masked, dev]],
    ["runc version 1.4.0-rc.3", [dev]],
    ["runc version 1.4.0", [dev]],
    ["runc version 1.4.3", []],
    ["runc version 1.5.0-rc.2", [dev]],
    ["runc version 1.5.0", []],
    ["runc version 1.10.0", []],
    ["runc version 2.0.0", []],
    ["crun version 0.10.4", ["CVE-2019-18837", "CVE-2026-47766"]],
    ["crun version 1.8.1", ["CVE-2026-47766"]],
    ["crun version 1.21", ["CVE-2026-47766"]],
    ["crun version 1.28", []],
    ["crun version 1.29.1", []],
    ["crun version UNKNOWN", []],
    ["kata-runtime  : 3.2.0", []],
    ["", []],
  ])("of %p", (said, names) => {
    expect(knownEscapes(said)).toEqual(names);
  });
});
