/** Real containers by runc from specs that Crib built, looked at from inside. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { buildSpec, type SpecInput } from "../../src/container/spec/index.ts";
import {
  LinuxContainerConfig,
  LinuxContainerSecurityContext,
  MountPropagation,
} from "../../src/gen/runtime/v1/container_config_pb.ts";
import {
  NamespaceMode,
  NamespaceOption,
  SecurityProfile_ProfileType as ProfileType,
  SupplementalGroupsPolicy,
} from "../../src/gen/runtime/v1/security_pb.ts";
import { detectCgroups, removeCgroup } from "../../src/linux/cgroup.ts";
import { readHost } from "../../src/linux/host.ts";
import { parseFeatures } from "../../src/runtime/features.ts";
import { type ContainerInit, type SecurityInit, specInput } from "../fixtures/spec-input.ts";

const APPLETS = "sh cat chmod echo env grep id ls mkdir mount pwd stat touch".split(" ");
const CHOWN = 0;
const NET_BIND_SERVICE = 10;

let directory: string;
let rootfs: string;
let container = 0;

beforeAll(() => {
  if (!("uplink0" in networkInterfaces())) {
    throw new Error("run this through test/isolate.sh, as `npm test` does");
  }
  directory = mkdtempSync(join(tmpdir(), "crib-spec-"));
  for (const name of ["shm", "volume"]) mkdirSync(join(directory, name));
  writeFileSync(join(directory, "resolv.conf"), "nameserver 192.0.2.53\n");
  writeFileSync(join(directory, "hostname"), "web\n");
  execFileSync("cc", [
    "-static",
    "-O1",
    "-o",
    join(directory, "probe"),
    "test/fixtures/spec-probe.c",
  ]);
});

afterAll(async () => {
  rmSync(directory, { recursive: true, force: true });
  await removeCgroup(cgroups, cgroupParent);
});

beforeEach(() => {
  rootfs = join(directory, `rootfs-${++container}`);
  for (const name of ["bin", "etc", "tmp", "proc", "sys", "dev"]) {
    mkdirSync(join(rootfs, name), { recursive: true });
  }
  chmodSync(join(rootfs, "tmp"), 0o1777);
  copyFileSync("/bin/busybox", join(rootfs, "bin/busybox"));
  for (const name of APPLETS) linkSync(join(rootfs, "bin/busybox"), join(rootfs, "bin", name));
  copyFileSync(join(directory, "probe"), join(rootfs, "bin/probe"));
  writeFileSync(
    join(rootfs, "etc/passwd"),
    "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
  );
  writeFileSync(join(rootfs, "etc/group"), "root:x:0:\nshared:x:50000:app\n");
});

const cgroups = detectCgroups();
const cgroupParent = `/crib-spec-${process.pid}-${Date.now()}`;
const features = parseFeatures(execFileSync("runc", ["features"], { encoding: "utf8" }));

function input(config: ContainerInit, more: Parameters<typeof specInput>[2] = {}): SpecInput {
  return specInput(rootfs, config, {
    cgroupsPath: `${cgroupParent}/${container}`,
    host: { ...readHost(cgroups.controllers), cgroupVersion: cgroups.version },
    features,
    podConfig: {
      linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
    },
    ...more,
    pod: {
      namespaces: {},
      resolvConf: join(directory, "resolv.conf"),
      hostnameFile: join(directory, "hostname"),
      shm: join(directory, "shm"),
      ...more.pod,
    },
  });
}

interface Run {
  exitCode: number;
  stdout: string;
  stderr: string;
}

async function run(
  script: string,
  config: ContainerInit = {},
  more: Parameters<typeof specInput>[2] = {},
): Promise<Run> {
  const made = input({ command: ["/bin/sh", "-c", script], ...config }, more);
  const linux = LinuxContainerConfig.fromPartial(made.container.config.linux ?? {});
  linux.securityContext ??= LinuxContainerSecurityContext.fromPartial({});
  linux.securityContext.namespaceOptions ??= NamespaceOption.fromPartial({
    pid: NamespaceMode.CONTAINER,
  });
  made.container.config.linux = linux;
  const { spec } = await buildSpec(made);
  const bundle = join(directory, `bundle-${container}`);
  mkdirSync(bundle, { recursive: true });
  writeFileSync(join(bundle, "config.json"), JSON.stringify(spec));
  const root = join(directory, "runc");
  const child = Bun.spawn(["runc", "--root", root, "run", "--bundle", bundle, `c${container}`], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr, exitCode] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { stdout, stderr, exitCode };
}

/** The output of a container that must succeed. */
async function output(...args: Parameters<typeof run>): Promise<string> {
  const result = await run(...args);
  expect(result).toMatchObject({ exitCode: 0, stderr: "" });
  return result.stdout;
}

function security(securityContext: SecurityInit): ContainerInit {
  return { linux: { securityContext } };
}

function status(text: string): Map<string, string> {
  return new Map(text.split("\n").map((line) => line.split(":\t") as [string, string]));
}

function capability(set: string | undefined, number: number): boolean {
  return ((BigInt(`0x${set}`) >> BigInt(number)) & 1n) === 1n;
}

describe("the process", () => {
  test("has the environment and the directory of image and request, and HOME of its user", async () => {
    const text = await output(
      "pwd; env",
      {
        workingDir: "/made/by/runtime",
        envs: [{ key: "B", value: Buffer.from("from request=$x\n2") }],
        ...security({ runAsUser: { value: 1000n } }),
      },
      { image: { config: { Env: ["A=image", "B=image"] } } },
    );
    expect(text).toStartWith("/made/by/runtime\n");
    expect(text).toContain("\nA=image\n");
    expect(text).toContain("\nB=from request=$x\n2\n");
    expect(text).toContain("\nHOME=/home/app\n");
    expect(text).toContain("\nHOSTNAME=web\n");
  });

  test("has the user of the image's passwd with the groups of image and request", async () => {
    const ids = "id -u; id -g; id -G";
    const supplementalGroups = [1234n];
    const merged = await output(ids, security({ runAsUsername: "app", supplementalGroups }));
    expect(merged).toBe("1000\n1001\n1001 1234 50000\n");
    const strict = security({
      runAsUser: { value: 1000n },
      runAsGroup: { value: 7n },
      supplementalGroups,
      supplementalGroupsPolicy: SupplementalGroupsPolicy.Strict,
    });
    expect(await output(ids, strict)).toBe("1000\n7\n7 1234\n");
  });

  test("as root has the default capabilities, as another user none, and ambient ones on demand", async () => {
    const read = "cat /proc/self/status";
    const root = status(await output(read));
    expect(root.get("CapEff")).toBe("00000000000005fb");
    expect(root.get("CapBnd")).toBe("00000000000005fb");
    expect(root.get("CapInh")).toBe("0000000000000000");
    const runAsUser = { value: 1000n };
    const user = status(await output(read, security({ runAsUser })));
    expect(user.get("CapEff")).toBe("0000000000000000");
    expect(capability(user.get("CapBnd"), CHOWN)).toBe(true);
    const ambient = status(
      await output(
        read,
        security({
          runAsUser,
          noNewPrivs: true,
          capabilities: {
            dropCapabilities: ["ALL"],
            addAmbientCapabilities: ["net_bind_service"],
          },
        }),
      ),
    );
    for (const set of ["CapEff", "CapPrm", "CapAmb", "CapInh", "CapBnd"]) {
      expect(ambient.get(set)).toBe("0000000000000400");
      expect(capability(ambient.get(set), NET_BIND_SERVICE)).toBe(true);
    }
    expect(ambient.get("NoNewPrivs")).toBe("1");
  });

  test("with all capabilities asked for gets what the daemon has, and runs", async () => {
    const all = security({ capabilities: { addCapabilities: ["ALL"] } });
    const text = await output("cat /proc/self/status", all);
    expect(status(text).get("CapBnd")).toBe(
      status(readFileSync("/proc/self/status", "utf8")).get("CapBnd"),
    );
  });

  test("has the oom score asked for, raised to what the daemon may set", async () => {
    const score = (value: bigint) =>
      output("cat /proc/self/oom_score_adj", { linux: { resources: { oomScoreAdj: value } } });
    const lowest = readHost(cgroups.controllers).oomScoreAdjMin;
    expect(await score(987n)).toBe("987\n");
    expect(Number(await score(-998n))).toBe(Math.max(-998, lowest));
  });

  test("has the node's ulimits, unlimited ones too", async () => {
    const runtime = {
      ...input({}).runtime,
      default_ulimits: ["nofile=1000:2000", "core=0:-1"],
    };
    const text = await output("cat /proc/self/limits", {}, { runtime });
    expect(text).toMatch(/Max open files +1000 +2000 /);
    expect(text).toMatch(/Max core file size +0 +unlimited /);
  });
});

describe("the file system", () => {
  test("shows the pod's files and shm, a read-only sysfs, and masks what it is told to", async () => {
    writeFileSync(join(rootfs, "secret"), "secret");
    mkdirSync(join(rootfs, "hidden/inner"), { recursive: true });
    mkdirSync(join(rootfs, "ro"));
    const text = await output(
      "cat /etc/resolv.conf /etc/hostname; touch /sys/x 2>&1; touch /ro/x 2>&1; " +
        "cat /secret; ls /hidden; echo hi > /dev/shm/from-container",
      security({ maskedPaths: ["/secret", "/hidden"], readonlyPaths: ["/ro"] }),
    );
    expect(text).toBe(
      "nameserver 192.0.2.53\nweb\ntouch: /sys/x: Read-only file system\n" +
        "touch: /ro/x: Read-only file system\n",
    );
    expect(readFileSync(join(directory, "shm/from-container"), "utf8")).toBe("hi\n");
  });

  test("with a read-only root is writable in mounts only", async () => {
    const result = await run("touch /volume/x && touch /tmp/x", {
      ...security({ readonlyRootfs: true }),
      mounts: [{ hostPath: join(directory, "volume"), containerPath: "/volume" }],
    });
    expect(result.stderr).toBe("touch: /tmp/x: Read-only file system\n");
    expect(existsSync(join(directory, "volume/x"))).toBe(true);
  });

  test("mounts follow symlinks, are made when missing, and keep their options", async () => {
    const link = join(directory, `link-${container}`);
    symlinkSync(join(directory, "volume"), link);
    const missing = join(directory, "missing/deep");
    const text = await output("cat /proc/self/mountinfo", {
      mounts: [
        { hostPath: missing, containerPath: "/b/new", readonly: true },
        { hostPath: link, containerPath: "/a/b", mountOptions: ["noexec", "nosuid", "nodev"] },
      ],
    });
    expect(existsSync(missing)).toBe(true);
    expect(text).toMatch(/\/volume \/a\/b rw,nosuid,nodev,noexec,/);
    expect(text).toMatch(/\/missing\/deep \/b\/new ro,/);
  });

  test("a read-only mount leaves the mounts below it writable, a recursive one does not", async () => {
    const top = mkdtempSync(join(directory, "rro-"));
    mkdirSync(join(top, "below"));
    execFileSync("mount", ["-t", "tmpfs", "none", join(top, "below")]);
    try {
      const mount = { hostPath: top, containerPath: "/top", readonly: true };
      await output("touch /top/below/x && ! touch /top/x 2>/dev/null", { mounts: [mount] });
      const recursive = await run("touch /top/below/y", {
        mounts: [{ ...mount, recursiveReadOnly: true }],
      });
      expect(recursive.stderr).toBe("touch: /top/below/y: Read-only file system\n");
    } finally {
      execFileSync("umount", [join(top, "below")]);
    }
  });

  test("a mount in the container reaches the host with BIDIRECTIONAL only", async () => {
    const shared = mkdtempSync(join(directory, "shared-"));
    mkdirSync(join(shared, "inner"));
    execFileSync("mount", ["--bind", shared, shared]);
    execFileSync("mount", ["--make-shared", shared]);
    const mounted = async (propagation: MountPropagation) => {
      const mount = { hostPath: shared, containerPath: "/data", propagation };
      const config = { ...security({ privileged: true }), mounts: [mount] };
      await output("mount -t tmpfs x /data/inner && touch /data/inner/file", config, {
        pod: { privileged: true },
      });
      return existsSync(join(shared, "inner/file"));
    };
    try {
      expect(await mounted(MountPropagation.PROPAGATION_PRIVATE)).toBe(false);
      expect(await mounted(MountPropagation.PROPAGATION_HOST_TO_CONTAINER)).toBe(false);
      expect(await mounted(MountPropagation.PROPAGATION_BIDIRECTIONAL)).toBe(true);
    } finally {
      execFileSync("umount", ["-R", shared]);
    }
  });

  test("a volume of the image is a directory in the root, inside it whatever its links say", async () => {
    mkdirSync(join(rootfs, "data"));
    writeFileSync(join(rootfs, "data/kept"), "from the image\n");
    symlinkSync("/../../../../tmp", join(rootfs, "link"));
    const Volumes = ["/data", "/new/deep/", "/link/inside"];
    const text = await output(
      "cat /data/kept; touch /data/x /new/deep/x; ls /tmp",
      {},
      { image: { config: { Volumes } } },
    );
    expect(text).toBe("from the image\ninside\n");
    expect(existsSync(join(rootfs, "tmp/inside"))).toBe(true);
  });
});

describe("devices", () => {
  test("those asked for are there with the host's numbers, in directories too, no others", async () => {
    const nodes = join(directory, `nodes-${container}`);
    mkdirSync(join(nodes, "sub"), { recursive: true });
    execFileSync("mknod", ["-m", "640", join(nodes, "sub/zero2"), "c", "1", "5"]);
    const text = await output("stat -c '%n %t:%T %a' /dev/my/sub/zero2 /dev/kmsg2; ls /dev", {
      devices: [
        { hostPath: nodes, containerPath: "/dev/my", permissions: "r" },
        { hostPath: "/dev/kmsg", containerPath: "/dev/kmsg2", permissions: "rwm" },
      ],
    });
    expect(text).toContain("/dev/my/sub/zero2 1:5 640\n/dev/kmsg2 1:b ");
    expect(text).not.toContain("kmsg\n");
  });
});

test("a privileged container has all capabilities, the host's devices and nothing masked", async () => {
  const text = await output(
    "cat /proc/self/status; grep -E ' /sys(/fs/cgroup)? ' /proc/mounts; ls /dev; mount -t tmpfs x /tmp",
    {
      ...security({ privileged: true, seccomp: {}, maskedPaths: ["/proc/kcore", "/etc/passwd"] }),
    },
    { pod: { privileged: true } },
  );
  const own = status(readFileSync("/proc/self/status", "utf8"));
  const lines = status(text);
  expect(lines.get("CapEff")).toBe(own.get("CapBnd"));
  expect(lines.get("Seccomp")).toBe("0");
  expect(text).toMatch(/ \/sys sysfs rw,/);
  expect(text).toMatch(/ \/sys\/fs\/cgroup \w+ rw,/);
  expect(text).toMatch(/^kmsg$/m);
});

describe("namespaces", () => {
  test("those of the pod are joined by their pins, the PID namespace is new", async () => {
    const pins = join(directory, `pins-${container}`);
    mkdirSync(pins);
    const names = ["net", "ipc", "uts"];
    for (const name of names) writeFileSync(join(pins, name), "");
    const flags = names.map((name) => `--${name}=${join(pins, name)}`);
    execFileSync("unshare", [...flags, "sh", "-c", "hostname web-0"]);
    try {
      const text = await output(
        "for n in net ipc uts; do stat -L -c %i /proc/self/ns/$n; done; " +
          "cat /proc/sys/kernel/hostname; echo $$",
        {},
        { pod: { namespaces: Object.fromEntries(names.map((name) => [name, join(pins, name)])) } },
      );
      const inodes = names.map((name) => String(statSync(join(pins, name)).ino));
      expect(text).toBe(`${inodes.join("\n")}\nweb-0\n1\n`);
    } finally {
      for (const name of names) execFileSync("umount", [join(pins, name)]);
    }
  });
});

test("memory and CPU limits reach the container's cgroup", async () => {
  const limits = {
    memoryLimitInBytes: 64n * 1024n * 1024n,
    cpuShares: 512n,
    cpuQuota: 50_000n,
    cpuPeriod: 100_000n,
  };
  const files =
    cgroups.version === 1
      ? "memory/memory.limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us"
      : "memory.max cpu.weight cpu.max";
  const text = await output(`cd /sys/fs/cgroup; cat ${files}`, { linux: { resources: limits } });
  expect(text).toBe(
    cgroups.version === 1 ? "67108864\n512\n50000\n" : "67108864\n20\n50000 100000\n",
  );
});

test("a seccomp profile of the node in Docker's format is applied", async () => {
  const path = join(directory, "profile.json");
  const profile = {
    defaultAction: "SCMP_ACT_ALLOW",
    archMap: [{ architecture: "SCMP_ARCH_X86_64", subArchitectures: ["SCMP_ARCH_X86"] }],
    syscalls: [
      { names: ["chmod", "fchmodat"], action: "SCMP_ACT_ERRNO" },
      {
        names: ["mkdir", "mkdirat"],
        action: "SCMP_ACT_ERRNO",
        errnoRet: 28,
        excludes: { caps: ["CAP_SYS_ADMIN"] },
      },
    ],
  };
  writeFileSync(path, JSON.stringify(profile));
  const result = await run(
    "chmod 400 /tmp; mkdir /tmp/x",
    security({ seccomp: { profileType: ProfileType.Localhost, localhostRef: path } }),
  );
  expect(result.stderr).toBe(
    "chmod: /tmp: Operation not permitted\n" +
      "mkdir: can't create directory '/tmp/x': No space left on device\n",
  );
});

test("a restricted container as the kubelet sends it runs under RuntimeDefault seccomp", async () => {
  const restricted: SecurityInit = {
    runAsUser: { value: 1000n },
    noNewPrivs: true,
    readonlyRootfs: true,
    capabilities: { dropCapabilities: ["ALL"] },
    seccomp: {},
    maskedPaths: ["/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"],
    readonlyPaths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
  };
  const lines = status(await output("cat /proc/self/status", security(restricted)));
  expect(lines.get("Seccomp")).toBe("2");
  expect(lines.get("NoNewPrivs")).toBe("1");
  expect(lines.get("CapBnd")).toBe("0000000000000000");
  const sysctl = await run(
    "echo 1 > /proc/sys/vm/swappiness",
    security({ ...restricted, runAsUser: { value: 0n } }),
  );
  expect(sysctl.stderr).toContain("Read-only file system");
});

/** What the probe says under the default profile; 0 is success. */
const [EPERM, EINVAL, ENOSYS] = [1, 22, 38];
const PROBED = {
  clone: 0,
  "clone-newuser": EPERM,
  "clone-newns": EPERM,
  "clone-newnet-newpid": EPERM,
  "clone-newuser-above": EPERM,
  clone3: ENOSYS,
  unshare: EPERM,
  mount: EPERM,
  keyctl: EPERM,
  io_uring_setup: ENOSYS,
  bpf: EPERM,
  unknown: ENOSYS,
  "socket-inet": 0,
  "socket-netlink": 0,
  "socket-alg": EPERM,
  "socket-vsock": EPERM,
  "socket-alg-above": EPERM,
  "socket-vsock-above": EPERM,
  "socket-vsock-far-above": EPERM,
  "socket-unix-above": 0,
  "socket-audit": EINVAL,
  "socket-audit-above": EINVAL,
  "socketpair-unix": 0,
  "socketpair-vsock": EPERM,
  "personality-query": 0,
  "personality-other": ENOSYS,
  "personality-other-above": ENOSYS,
  "personality-query-above": 0,
};
const PROBED_BY_OTHER_ABIS = {
  "i386-socketcall-inet": EPERM,
  "i386-socketcall-vsock": EPERM,
  "i386-socket-inet": 0,
  "i386-socket-alg": EPERM,
  "i386-socket-vsock": EPERM,
  "i386-socketpair-vsock": EPERM,
  "i386-clone-newuser": EPERM,
  "i386-mount": EPERM,
  "i386-getpid": 0,
  "x32-socket-alg": EPERM,
  "x32-socket-vsock": EPERM,
  "x32-mount": EPERM,
};

function probed(text: string): Record<string, number> {
  const lines = text.trim().split("\n");
  return Object.fromEntries(
    lines.map((line) => {
      const [name = "", errno] = line.split(" ");
      return [name, Number(errno)];
    }),
  );
}

describe("RuntimeDefault seccomp", () => {
  test("refuses what it names by all ABIs, whatever is above 32 bits, and lets the rest pass", async () => {
    const text = await output("/bin/probe", security({ seccomp: {} }));
    const x64 = process.arch === "x64" ? PROBED_BY_OTHER_ABIS : {};
    expect(probed(text)).toEqual({ ...PROBED, ...x64 });
  });

  test("opens with a capability what it stands for, and no more", async () => {
    const addCapabilities = ["SYS_ADMIN", "AUDIT_WRITE"];
    const text = await output(
      "/bin/probe",
      security({ seccomp: {}, capabilities: { addCapabilities } }),
    );
    expect(probed(text)["socket-audit"]).not.toBe(EINVAL);
    expect(probed(text)).toMatchObject({
      "clone-newns": 0,
      "socket-alg-above": EPERM,
      "socket-vsock-above": EPERM,
      "personality-other-above": ENOSYS,
      keyctl: EPERM,
    });
  });
});
