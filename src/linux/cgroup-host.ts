/**
 * Where the cgroup file systems of this host are mounted: v2 (unified), v1 (one mount per controller
 * or several together, "cpu,cpuacct"), or hybrid (v1 plus a v2 tree without controllers), which is v1.
 * Everything is read from /proc/self/mountinfo (proc_pid_mountinfo(5)); no path is assumed.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { CribError } from "../error.ts";

/** One mounted cgroup tree. */
export interface CgroupHierarchy {
  mountPoint: string;
  /** The cgroup that is visible at the mount point: "/" but for bind mounts of a subtree. */
  root: string;
  /** v1: controllers and "name=NAME"; v2: the controllers that the tree offers. */
  controllers: readonly string[];
  unified: boolean;
}

export interface CgroupHost {
  version: 1 | 2;
  /** Controller → mount point. On v2 all have the same one. */
  controllers: ReadonlyMap<string, string>;
  /** All trees that a container's cgroup may exist in; on a hybrid host also the v2 one, as the last. */
  hierarchies: readonly CgroupHierarchy[];
}

/** v1 mount options that are no controllers (cgroups(7), kernel/cgroup/cgroup-v1.c). */
const V1_FLAGS = new Set([
  "rw",
  "ro",
  "none",
  "all",
  "xattr",
  "noprefix",
  "clone_children",
  "cpuset_v2_mode",
  "favordynmods",
  "nofavordynmods",
]);

interface CgroupMount {
  mountPoint: string;
  root: string;
  type: "cgroup" | "cgroup2";
  options: string[];
}

/** mountinfo writes space, tab, newline and backslash as three octal digits. */
function unescapeMountField(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

function parseCgroupMounts(mountinfo: string): CgroupMount[] {
  const mounts: CgroupMount[] = [];
  for (const line of mountinfo.split("\n")) {
    const [before, after] = line.split(" - ");
    const [, , , root, mountPoint] = before?.split(" ") ?? [];
    const [type, , options] = after?.split(" ") ?? [];
    if (type !== "cgroup" && type !== "cgroup2") continue;
    if (root === undefined || mountPoint === undefined) continue;
    mounts.push({
      mountPoint: unescapeMountField(mountPoint),
      root: unescapeMountField(root),
      type,
      options: options?.split(",") ?? [],
    });
  }
  return mounts;
}

function v1Controllers(mount: CgroupMount): string[] {
  return mount.options.filter(
    (option) => !V1_FLAGS.has(option) && (!option.includes("=") || option.startsWith("name=")),
  );
}

/** One tree may be mounted several times: the mount that shows the most of it wins, then the first. */
function withoutRepeats(hierarchies: CgroupHierarchy[]): CgroupHierarchy[] {
  const best = new Map<string, CgroupHierarchy>();
  for (const hierarchy of hierarchies) {
    const key = hierarchy.unified ? "" : [...hierarchy.controllers].sort().join(",");
    const known = best.get(key);
    if (known === undefined || (known.root !== "/" && hierarchy.root === "/")) {
      best.set(key, hierarchy);
    }
  }
  return [...best.values()];
}

function readFileOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/**
 * Finds the host's cgroup trees. `mountinfo` is the text of /proc/self/mountinfo, `read` reads a v2
 * tree's cgroup.controllers ("" when it cannot); both have a default and exist for tests.
 * Throws `FailedPrecondition` when no cgroup file system is mounted.
 */
export function detectCgroups(
  mountinfo: string = readFileSync("/proc/self/mountinfo", "utf8"),
  read: (path: string) => string = readFileOf,
): CgroupHost {
  const v1: CgroupHierarchy[] = [];
  const v2: CgroupHierarchy[] = [];
  for (const mount of parseCgroupMounts(mountinfo)) {
    const { mountPoint, root } = mount;
    if (mount.type === "cgroup") {
      v1.push({ mountPoint, root, controllers: v1Controllers(mount), unified: false });
    } else {
      const controllers = read(join(mountPoint, "cgroup.controllers")).split(/\s+/);
      v2.push({ mountPoint, root, controllers: controllers.filter(Boolean), unified: true });
    }
  }
  // systemd keeps a v1 tree without controllers (name=systemd) on some otherwise unified hosts.
  const isV1 = v1.some((tree) => tree.controllers.some((name) => !name.includes("=")));
  if (!isV1 && v2.length === 0) {
    throw new CribError(
      "FailedPrecondition",
      "cgroups: no cgroup file system is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup",
    );
  }
  const hierarchies = withoutRepeats(isV1 ? [...v1, ...v2] : v2);
  const controllers = new Map<string, string>();
  for (const tree of hierarchies) {
    if (tree.unified && isV1) continue;
    for (const name of tree.controllers) controllers.set(name, tree.mountPoint);
  }
  return { version: isV1 ? 1 : 2, controllers, hierarchies };
}
