import { describe, expect, test } from "bun:test";
import { detectCgroups } from "../../src/linux/cgroup.ts";

const ROOT = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw";
const UNIFIED =
  "31 23 0:28 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot";

function v1(mountPoint: string, options: string, root = "/"): string {
  return `35 31 0:32 ${root} ${mountPoint} rw,nosuid shared:9 - cgroup cgroup rw,${options}`;
}

const HYBRID = [
  ROOT,
  v1("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"),
  v1("/sys/fs/cgroup/cpuset", "cpuset,clone_children"),
  v1("/sys/fs/cgroup/memory", "memory"),
  v1("/sys/fs/cgroup/systemd", "xattr,name=systemd,release_agent=/x"),
  "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw",
].join("\n");

describe("detectCgroups", () => {
  test("a unified host is v2, with the controllers that its root offers", () => {
    const asked: string[] = [];
    const host = detectCgroups(`${ROOT}\n${UNIFIED}`, (path) => {
      asked.push(path);
      return "cpuset cpu io memory pids\n";
    });
    expect(host.version).toBe(2);
    expect([...host.controllers.keys()]).toEqual(["cpuset", "cpu", "io", "memory", "pids"]);
    expect(new Set(host.controllers.values())).toEqual(new Set(["/sys/fs/cgroup"]));
    expect(asked).toEqual(["/sys/fs/cgroup/cgroup.controllers"]);
  });

  test("a hybrid host is v1; mount flags are no controllers", () => {
    const host = detectCgroups(HYBRID, () => "hugetlb");
    expect(host.version).toBe(1);
    expect(Object.fromEntries(host.controllers)).toEqual({
      cpu: "/sys/fs/cgroup/cpu,cpuacct",
      cpuacct: "/sys/fs/cgroup/cpu,cpuacct",
      cpuset: "/sys/fs/cgroup/cpuset",
      memory: "/sys/fs/cgroup/memory",
      "name=systemd": "/sys/fs/cgroup/systemd",
    });
    expect(host.hierarchies.at(-1)).toMatchObject({ unified: true });
  });

  test("systemd's own v1 tree alone does not make a host v1", () => {
    const mounts = `${v1("/sys/fs/cgroup/systemd", "name=systemd")}\n${UNIFIED}`;
    const host = detectCgroups(mounts, () => "memory");
    expect(host.version).toBe(2);
    expect(host.hierarchies).toHaveLength(1);
  });

  test("of several mounts of one tree the one that shows its root is used", () => {
    const host = detectCgroups(
      [v1("/bind", "memory", "/docker/a"), v1("/whole", "memory"), v1("/again", "memory")].join(
        "\n",
      ),
    );
    expect(host.controllers.get("memory")).toBe("/whole");
    expect(host.hierarchies).toHaveLength(1);
  });

  test("escaped characters in mount points are decoded", () => {
    const host = detectCgroups(v1("/with\\040space", "memory"));
    expect(host.controllers.get("memory")).toBe("/with space");
  });

  test("a host without cgroup file systems is refused with a remedy", () => {
    expect(() => detectCgroups(ROOT)).toThrow(/no cgroup file system is mounted; mount one/);
    expect(() => detectCgroups("")).toThrow(/no cgroup file system/);
  });
});
