import { afterAll, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildMounts, type MountRequest } from "../../src/container/spec/mounts.ts";
import type { DeepPartial } from "../../src/gen/runtime/v1/common_pb.ts";
import { Mount, MountPropagation } from "../../src/gen/runtime/v1/container_config_pb.ts";

type MountInit = DeepPartial<Mount>;
const { PROPAGATION_HOST_TO_CONTAINER, PROPAGATION_BIDIRECTIONAL } = MountPropagation;

const top = realpathSync(mkdtempSync(join(tmpdir(), "crib-spec-mounts-")));
afterAll(() => rmSync(top, { recursive: true }));
mkdirSync(join(top, "dir"));
writeFileSync(join(top, "file"), "");
symlinkSync("dir", join(top, "link"));
symlinkSync("nowhere", join(top, "dangling"));
symlinkSync("loop", join(top, "loop"));

function build(mounts: MountInit[], change: Partial<MountRequest> = {}) {
  return buildMounts({
    mounts: mounts.map((mount) => Mount.fromPartial(mount)),
    pod: {
      hostname: "web",
      resolvConf: "/pod/resolv.conf",
      hostnameFile: "/pod/hostname",
      shm: "/pod/shm",
      namespaces: { net: "/pins/net" },
    },
    privileged: false,
    readonlyRootfs: false,
    host: { selinux: false },
    features: { recursiveReadOnlyMounts: true },
    absentMountSourcesToReject: [join(top, "rejected")],
    imageSources: new Map([[0, "/image/0"]]),
    mountinfo: "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n",
    ...change,
  });
}

async function lines(...args: Parameters<typeof build>): Promise<string[]> {
  const { mounts } = await build(...args);
  return mounts.map(({ destination, type, source, options }) =>
    [destination, type, source, options.join(",")].join(" "),
  );
}

describe("without mounts of its own", () => {
  test("a container has the kernel's file systems and the pod's files", async () => {
    expect(await lines([])).toEqual([
      "/proc proc proc nosuid,noexec,nodev",
      "/sys sysfs sysfs nosuid,noexec,nodev,ro",
      "/dev tmpfs tmpfs nosuid,strictatime,mode=755,size=65536k",
      "/dev/pts devpts devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
      "/dev/mqueue mqueue mqueue nosuid,noexec,nodev",
      "/dev/shm bind /pod/shm bind,rprivate,rw,nosuid,noexec,nodev",
      "/etc/resolv.conf bind /pod/resolv.conf bind,rprivate,rw,nosuid,noexec,nodev",
      "/etc/hostname bind /pod/hostname bind,rprivate,rw,nosuid,noexec,nodev",
      "/sys/fs/cgroup cgroup cgroup nosuid,noexec,nodev,relatime,ro",
    ]);
  });

  test("a privileged one may write sysfs and cgroups, a read-only one not the pod's files", async () => {
    const privileged = await lines([], { privileged: true });
    expect(privileged).toContain("/sys sysfs sysfs nosuid,noexec,nodev,rw");
    expect(privileged).toContain("/sys/fs/cgroup cgroup cgroup nosuid,noexec,nodev,relatime,rw");
    const readonly = await lines([], { readonlyRootfs: true });
    expect(readonly).toContain(
      "/etc/resolv.conf bind /pod/resolv.conf bind,rprivate,ro,nosuid,noexec,nodev",
    );
  });

  test("one in the host's network reads the host's /etc/hosts, or the pod's when it has one", async () => {
    const pod = { hostname: "", resolvConf: "", hostnameFile: "", shm: "", namespaces: {} };
    const host = await lines([], { pod });
    expect(host).toContain("/etc/hosts bind /etc/hosts bind,rprivate,ro,nosuid,noexec,nodev");
    expect(host).toContain("/dev/shm tmpfs shm nosuid,noexec,nodev,mode=1777,size=65536k");
    expect(host.join("\n")).not.toContain("resolv.conf");
    const own = await lines([], { pod: { ...pod, hostsFile: "/pod/hosts" } });
    expect(own).toContain("/etc/hosts bind /pod/hosts bind,rprivate,rw,nosuid,noexec,nodev");
  });
});

describe("a mount of the client", () => {
  const dir = join(top, "dir");

  test.each<[string, MountInit, string]>([
    ["plain", {}, "rbind,rprivate,rw"],
    ["read-only", { readonly: true }, "rbind,rprivate,ro"],
    ["recursively read-only", { readonly: true, recursiveReadOnly: true }, "rbind,rprivate,rro"],
    [
      "with options",
      { mountOptions: ["noexec", "nosuid", "nodev", "noexec"] },
      "rbind,rprivate,rw,noexec,nosuid,nodev",
    ],
    ["to be relabelled where SELinux is off", { selinuxRelabel: true }, "rbind,rprivate,rw"],
  ])("%s", async (_, change, options) => {
    const built = await lines([{ hostPath: dir, containerPath: "/data", ...change }]);
    expect(built).toContain(`/data bind ${dir} ${options}`);
  });

  test("follows a symlink, takes files, and tidies the container's path", async () => {
    const built = await lines([
      { hostPath: join(top, "link"), containerPath: "/a//b/../c/" },
      { hostPath: join(top, "file"), containerPath: "/f" },
    ]);
    expect(built).toContain(`/a/c bind ${dir} rbind,rprivate,rw`);
    expect(built).toContain(`/f bind ${join(top, "file")} rbind,rprivate,rw`);
  });

  test("makes what is missing on the host, but not what the node rejects", async () => {
    const missing = join(top, "new/deep");
    await build([{ hostPath: missing, containerPath: "/data" }]);
    expect(existsSync(missing)).toBe(true);
    const rejected = { hostPath: join(top, "rejected/"), containerPath: "/data" };
    await expect(build([rejected])).rejects.toThrow("absent_mount_sources_to_reject");
    expect(existsSync(join(top, "rejected"))).toBe(false);
  });

  test("takes the place of Crib's own, /dev that of all below it", async () => {
    const hosts = await lines([{ hostPath: join(top, "file"), containerPath: "/etc/resolv.conf" }]);
    expect(hosts.filter((line) => line.startsWith("/etc/resolv.conf "))).toEqual([
      `/etc/resolv.conf bind ${join(top, "file")} rbind,rprivate,rw`,
    ]);
    const dev = await lines([{ hostPath: dir, containerPath: "/dev" }]);
    expect(dev.filter((line) => line.startsWith("/dev"))).toEqual([
      `/dev bind ${dir} rbind,rprivate,rw`,
    ]);
  });

  test("comes after what it is inside of, whatever the order asked for", async () => {
    const { mounts } = await build([
      { hostPath: dir, containerPath: "/a/b/c" },
      { hostPath: dir, containerPath: "/a" },
      { hostPath: dir, containerPath: "/proc/x/y" },
    ]);
    const order = mounts.map(({ destination }) => destination);
    expect(order.indexOf("/a")).toBeLessThan(order.indexOf("/a/b/c"));
    expect(order.indexOf("/proc")).toBeLessThan(order.indexOf("/proc/x/y"));
  });

  test.each<[string, MountInit, string, string]>([
    ["a relative container path", { containerPath: "a" }, "InvalidArgument", 'container_path: "a"'],
    ["no container path", { containerPath: "" }, "InvalidArgument", 'container_path: ""'],
    ["the root", { containerPath: "/.." }, "InvalidArgument", 'container_path: "/.."'],
    ["no host path", { hostPath: "" }, "InvalidArgument", 'host_path: ""'],
    [
      "a host path that is no directory",
      { hostPath: join(top, "file/x") },
      "InvalidArgument",
      "ENOTDIR",
    ],
    [
      "a symlink to nothing",
      { hostPath: join(top, "dangling") },
      "InvalidArgument",
      "is a symlink to nothing",
    ],
    ["symlinks in a circle", { hostPath: join(top, "loop") }, "InvalidArgument", "ELOOP"],
    [
      "an option that is not known",
      { mountOptions: ["noexec", "exec"] },
      "InvalidArgument",
      'mount_options: "exec"',
    ],
    [
      "an unknown propagation",
      { propagation: 7 as MountPropagation },
      "InvalidArgument",
      "propagation: 7",
    ],
    [
      "recursive without readonly",
      { recursiveReadOnly: true },
      "InvalidArgument",
      "needs readonly",
    ],
    [
      "recursive with slave propagation",
      { recursiveReadOnly: true, readonly: true, propagation: 1 },
      "InvalidArgument",
      "needs propagation PRIVATE",
    ],
    [
      "recursive with shared propagation",
      { recursiveReadOnly: true, readonly: true, propagation: 2 },
      "InvalidArgument",
      "needs propagation PRIVATE",
    ],
    ["image and host path", { image: { image: "i" } }, "InvalidArgument", "image is given too"],
    ["sub path without image", { imageSubPath: "a" }, "InvalidArgument", 'image_sub_path: "a"'],
    [
      "image to write to",
      { hostPath: "", image: { image: "i" } },
      "InvalidArgument",
      "readonly: false",
    ],
    [
      "image and propagation",
      { hostPath: "", image: { image: "i" }, readonly: true, propagation: 2 },
      "InvalidArgument",
      "must be PRIVATE",
    ],
  ])("with %s is refused", async (_, change, code, message) => {
    const error: unknown = await build([
      { hostPath: dir, containerPath: "/data", ...change },
    ]).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code });
    expect(String(error)).toContain("mounts[0].");
    expect(String(error)).toContain(message);
  });

  test("that the OCI runtime cannot make recursively read-only is refused", async () => {
    const mount = { hostPath: dir, containerPath: "/d", readonly: true, recursiveReadOnly: true };
    const attempt = build([mount], { features: { recursiveReadOnlyMounts: false } });
    await expect(attempt).rejects.toMatchObject({ code: "Unimplemented" });
  });

  test("of an image are read-only, without devices and setuid programs", async () => {
    const mount = { image: { image: "i" }, containerPath: "/i", readonly: true };
    const plain = "bind,rprivate,ro,nosuid,nodev";
    expect(await lines([mount])).toContain(`/i bind /image/0 ${plain}`);
    const strict = { ...mount, recursiveReadOnly: true, mountOptions: ["noexec", "nodev"] };
    const options = "bind,rprivate,rro,nosuid,nodev,noexec";
    expect(await lines([strict])).toContain(`/i bind /image/0 ${options}`);
  });

  test("makes nothing on the host when a later one is refused", async () => {
    const early = join(top, "early");
    const attempt = build([
      { hostPath: early, containerPath: "/a" },
      { hostPath: "", containerPath: "/b" },
    ]);
    await expect(attempt).rejects.toThrow("mounts[1].host_path");
    expect(existsSync(early)).toBe(false);
  });
});

describe("propagation", () => {
  const table = (tags: string) =>
    `1 0 8:1 / / rw shared:9 - ext4 /dev/sda1 rw\n2 1 0:5 / ${top.replaceAll(" ", "\\040")} rw${tags} - tmpfs none rw\n`;
  const mount = (propagation: MountPropagation) => [
    { hostPath: join(top, "dir"), containerPath: "/d", propagation },
  ];

  test.each<[string, MountPropagation, string, string, string | undefined]>([
    ["private needs nothing", 0, "", "rprivate", undefined],
    ["slave of a shared mount", PROPAGATION_HOST_TO_CONTAINER, " shared:1", "rslave", "rslave"],
    ["slave of a slave mount", PROPAGATION_HOST_TO_CONTAINER, " master:1", "rslave", "rslave"],
    ["shared", PROPAGATION_BIDIRECTIONAL, " master:2 shared:1", "rshared", "rshared"],
  ])("%s", async (_, propagation, tags, option, rootfsPropagation) => {
    const built = await build(mount(propagation), { mountinfo: table(tags) });
    expect(built.mounts.find(({ destination }) => destination === "/d")?.options).toContain(option);
    expect(built.rootfsPropagation).toBe(rootfsPropagation as never);
  });

  test.each<[string, MountPropagation, string, string]>([
    ["shared on a private mount", PROPAGATION_BIDIRECTIONAL, "", "not shared"],
    ["shared on a slave mount", PROPAGATION_BIDIRECTIONAL, " master:1", "not shared"],
    ["slave on a private mount", PROPAGATION_HOST_TO_CONTAINER, "", "neither shared nor a slave"],
  ])("%s is refused", async (_, propagation, tags, message) => {
    const attempt = build(mount(propagation), { mountinfo: table(tags) });
    await expect(attempt).rejects.toMatchObject({ code: "FailedPrecondition" });
    await expect(attempt).rejects.toThrow(`is on the mount ${top}, which is ${message}`);
  });

  test("shared wins over slave for the root's propagation", async () => {
    const mounts = [...mount(PROPAGATION_BIDIRECTIONAL), ...mount(PROPAGATION_HOST_TO_CONTAINER)];
    const { rootfsPropagation } = await build(mounts, { mountinfo: table(" shared:1") });
    expect(rootfsPropagation).toBe("rshared");
  });
});
