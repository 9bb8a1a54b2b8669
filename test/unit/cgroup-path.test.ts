import { describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  addProcess,
  type CgroupHost,
  cgroupDirectory,
  checkCgroupPath,
  createCgroup,
  killAll,
  oomFile,
  parseProcCgroup,
  processes,
  removeCgroup,
} from "../../src/linux/cgroup.ts";

function fakeHost(version: 1 | 2, mountPoint: string): CgroupHost {
  const controllers = ["cpu", "memory"];
  return {
    version,
    controllers: new Map(controllers.map((name) => [name, mountPoint])),
    hierarchies: [{ mountPoint, root: "/", controllers, unified: version === 2 }],
  };
}

describe("cgroup paths", () => {
  test("doubled and trailing slashes go", () => {
    expect(checkCgroupPath("//kubepods//pod1/")).toBe("/kubepods/pod1");
    expect(checkCgroupPath("/")).toBe("/");
  });

  test.each(["", "kubepods/pod1", "./x", "/a/../b", "/..", "/a/./b", "/a\0b", "/a\nb"])(
    "%j is refused",
    (path) => {
      expect(() => checkCgroupPath(path)).toThrow(/cgroup path/);
    },
  );

  test("a name that only begins with dots is fine", () => {
    expect(checkCgroupPath("/..a/b..")).toBe("/..a/b..");
  });

  test("the root cgroup cannot be created, filled, killed or removed", async () => {
    const host = fakeHost(2, "/nowhere");
    expect(() => createCgroup(host, "/")).toThrow(/root cgroup/);
    expect(() => addProcess(host, "//", 1)).toThrow(/root cgroup/);
    await expect(killAll(host, "/", 1)).rejects.toThrow(/root cgroup/);
    await expect(removeCgroup(host, "/")).rejects.toThrow(/root cgroup/);
  });

  test("the OOM file is that of the host's version, and none without a memory controller", () => {
    expect(oomFile(fakeHost(2, "/cg"), "/a")).toBe("/cg/a/memory.events");
    expect(oomFile(fakeHost(1, "/cg"), "/a")).toBe("/cg/a/memory.oom_control");
    expect(oomFile({ ...fakeHost(1, "/cg"), controllers: new Map() }, "/a")).toBe("");
  });

  test("a controller that the host lacks has no directory", () => {
    expect(cgroupDirectory(fakeHost(2, "/cg"), "rdma", "/a")).toBeUndefined();
    expect(cgroupDirectory(fakeHost(2, "/cg"), "cpu", "/a")).toBe("/cg/a");
  });
});

describe("createCgroup on v2", () => {
  test("enables only the controllers that the parent does not hand down yet", () => {
    const root = mkdtempSync(join(tmpdir(), "crib-cgroup-"));
    try {
      writeFileSync(join(root, "cgroup.controllers"), "cpu memory\n");
      writeFileSync(join(root, "cgroup.subtree_control"), "cpu\n");
      createCgroup(fakeHost(2, root), "/a/b");
      expect(readFileSync(join(root, "cgroup.subtree_control"), "utf8")).toBe("+memory");
    } finally {
      rmSync(root, { recursive: true });
    }
  });
});

describe("processes of a cgroup", () => {
  test("processes of other PID namespaces, shown as 0, are not ours to name", async () => {
    const root = mkdtempSync(join(tmpdir(), "crib-cgroup-"));
    try {
      const host = fakeHost(2, root);
      createCgroup(host, "/a/b");
      writeFileSync(join(root, "a/cgroup.procs"), "0\n12\n");
      writeFileSync(join(root, "a/b/cgroup.procs"), "7\n12\n");
      expect(await processes(host, "/a")).toEqual([7, 12]);
    } finally {
      rmSync(root, { recursive: true });
    }
  });

  test("a missing cgroup has none, is killed and removed without complaint", async () => {
    const host = fakeHost(2, "/nowhere");
    expect(await processes(host, "/a")).toEqual([]);
    await killAll(host, "/a", 1);
    await removeCgroup(host, "/a");
  });
});

describe("parseProcCgroup", () => {
  test("joint controllers, named trees and the v2 tree each have their path", () => {
    const paths = parseProcCgroup(
      "12:cpu,cpuacct:/kube/a\n3:name=systemd:/x:y\n0::/unified (deleted)\nodd\n",
    );
    expect(Object.fromEntries(paths)).toEqual({
      cpu: "/kube/a",
      cpuacct: "/kube/a",
      "name=systemd": "/x:y",
      "": "/unified",
    });
  });
});
