import { posix } from "node:path";
import { type Mount, MountPropagation } from "../../gen/runtime/v1/container_config_pb.ts";
import { resolveHostPath } from "./host-path.ts";
import type { SpecPod } from "./input.ts";
import type { OciMount } from "./oci.ts";
import { checkPropagation, type MountPoint, readMountTable } from "./propagation.ts";
import { invalid, unsupported } from "./refuse.ts";

export interface MountRequest {
  mounts: readonly Mount[];
  pod: Pick<
    SpecPod,
    "hostname" | "resolvConf" | "hostnameFile" | "hostsFile" | "shm" | "namespaces"
  >;
  privileged: boolean;
  readonlyRootfs: boolean;
  host: { selinux: boolean };
  features: { recursiveReadOnlyMounts: boolean };
  absentMountSourcesToReject: readonly string[];
  /** Where the images of mounts are mounted on the host, by the mount's index. */
  imageSources: ReadonlyMap<number, string>;
  /** /proc/self/mountinfo; its text in tests. */
  mountinfo?: string;
}

export interface BuiltMounts {
  mounts: OciMount[];
  /** Container paths of the client's mounts. */
  destinations: Set<string>;
  rootfsPropagation: "rshared" | "rslave" | undefined;
}

const PROPAGATION: Readonly<Record<MountPropagation, string>> = {
  [MountPropagation.PROPAGATION_PRIVATE]: "rprivate",
  [MountPropagation.PROPAGATION_HOST_TO_CONTAINER]: "rslave",
  [MountPropagation.PROPAGATION_BIDIRECTIONAL]: "rshared",
};
/** KEP-5855 names these; others could undo what the pod's author was promised. */
const MOUNT_OPTIONS = new Set(["noexec", "nodev", "nosuid"]);

/**
 * All mounts of a container, parents before what is below them: proc, sysfs, /dev and the pod's files,
 * except where the client mounts something of its own, then the client's mounts.
 */
export async function buildMounts(request: MountRequest): Promise<BuiltMounts> {
  // A node with many pods has thousands of mounts: not read for nothing.
  let table: MountPoint[] | undefined;
  const own: OciMount[] = [];
  let rootfsPropagation: BuiltMounts["rootfsPropagation"];
  // All are checked before the first one is made on the host.
  for (const [index, mount] of request.mounts.entries()) {
    checkMount(mount, `mounts[${index}]`, request);
  }
  for (const [index, mount] of request.mounts.entries()) {
    const field = `mounts[${index}]`;
    const built =
      mount.image === undefined
        ? await clientMount(mount, field, request)
        : imageMount(mount, request.imageSources.get(index));
    own.push(built);
    if (mount.propagation !== MountPropagation.PROPAGATION_PRIVATE) {
      table ??= readMountTable(request.mountinfo);
      checkPropagation(mount.propagation, built.source, table, `${field}.propagation`);
    }
    if (mount.propagation === MountPropagation.PROPAGATION_BIDIRECTIONAL) {
      rootfsPropagation = "rshared";
    } else if (mount.propagation === MountPropagation.PROPAGATION_HOST_TO_CONTAINER) {
      rootfsPropagation ??= "rslave";
    }
  }
  const destinations = new Set(own.map(({ destination }) => destination));
  const defaults = [...systemMounts(request), ...podMounts(request)].filter(
    ({ destination }) =>
      !destinations.has(destination) &&
      !(destinations.has("/dev") && destination.startsWith("/dev/")),
  );
  const mounts = [...defaults, ...own].sort((a, b) => depth(a.destination) - depth(b.destination));
  return { mounts, destinations, rootfsPropagation };
}

function depth(path: string): number {
  return path.split("/").length;
}

async function clientMount(mount: Mount, field: string, request: MountRequest): Promise<OciMount> {
  const rejected = request.absentMountSourcesToReject;
  const source = await resolveHostPath(mount.hostPath, `${field}.host_path`, rejected);
  const write = mount.recursiveReadOnly ? "rro" : mount.readonly ? "ro" : "rw";
  const options = ["rbind", PROPAGATION[mount.propagation], write, ...new Set(mount.mountOptions)];
  return { destination: posix.resolve(mount.containerPath), type: "bind", source, options };
}

/** What an image brings must not act on the host: as for all of its files, but here no container's. */
function imageMount(mount: Mount, source: string | undefined): OciMount {
  if (source === undefined) throw new Error(`image ${mount.image?.image} is not mounted`);
  const write = mount.recursiveReadOnly ? "rro" : "ro";
  const options = new Set(["bind", "rprivate", write, "nosuid", "nodev", ...mount.mountOptions]);
  const destination = posix.resolve(mount.containerPath);
  return { destination, type: "bind", source, options: [...options] };
}

function checkMount(mount: Mount, field: string, request: MountRequest): void {
  checkSupported(mount, field, request);
  for (const name of ["containerPath", "hostPath"] as const) {
    if (name === "hostPath" && mount.image !== undefined) continue;
    const path = mount[name];
    if (!path.startsWith("/") || path.includes("\0")) {
      const protoName = name === "hostPath" ? "host_path" : "container_path";
      throw invalid(`${field}.${protoName}`, path, "must be an absolute path");
    }
  }
  if (posix.resolve(mount.containerPath) === "/") {
    throw invalid(`${field}.container_path`, mount.containerPath, "the root is the image's");
  }
  if (PROPAGATION[mount.propagation] === undefined) {
    throw invalid(`${field}.propagation`, mount.propagation, "is not known");
  }
  checkReadOnly(mount, field, request);
  for (const option of mount.mountOptions) {
    if (!MOUNT_OPTIONS.has(option)) {
      throw invalid(`${field}.mount_options`, option, "must be noexec, nodev or nosuid");
    }
  }
}

function checkSupported(mount: Mount, field: string, request: MountRequest): void {
  checkImage(mount, field);
  for (const name of ["uidMappings", "gidMappings"] as const) {
    const [first] = mount[name];
    if (first !== undefined) {
      const value = `${first.containerId}:${first.hostId}:${first.length}`;
      throw unsupported(`${field}.${name}`, value, "Crib has no user namespaces yet");
    }
  }
  if (mount.selinuxRelabel && request.host.selinux) {
    throw unsupported(`${field}.selinux_relabel`, true, "Crib sets no SELinux labels yet");
  }
}

/** KEP-4639. A client that wants to write would find out too late. */
function checkImage(mount: Mount, field: string): void {
  if (mount.image === undefined) {
    if (mount.imageSubPath === "") return;
    throw invalid(`${field}.image_sub_path`, mount.imageSubPath, "is only for image volumes");
  }
  if (mount.hostPath !== "") {
    throw invalid(`${field}.host_path`, mount.hostPath, "image is given too");
  }
  if (!mount.readonly) throw invalid(`${field}.readonly`, false, "images are mounted read-only");
  if (mount.propagation !== MountPropagation.PROPAGATION_PRIVATE) {
    throw invalid(`${field}.propagation`, mount.propagation, "must be PRIVATE for an image");
  }
}

/** The rules are those of api.proto and KEP-3857. */
function checkReadOnly(mount: Mount, field: string, request: MountRequest): void {
  if (!mount.recursiveReadOnly) return;
  const name = `${field}.recursive_read_only`;
  if (!mount.readonly) throw invalid(name, true, "needs readonly");
  if (mount.propagation !== MountPropagation.PROPAGATION_PRIVATE) {
    throw invalid(name, true, "needs propagation PRIVATE");
  }
  if (!request.features.recursiveReadOnlyMounts) {
    throw unsupported(name, true, "this OCI runtime has no recursive read-only mounts");
  }
}

/** sysfs and cgroup are writable in privileged containers only. */
function systemMounts({ privileged }: MountRequest): OciMount[] {
  const write = privileged ? "rw" : "ro";
  const strict = ["nosuid", "noexec", "nodev"];
  return [
    { destination: "/proc", type: "proc", source: "proc", options: strict },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: [...strict, write] },
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: strict },
    {
      destination: "/sys/fs/cgroup",
      type: "cgroup",
      source: "cgroup",
      options: [...strict, "relatime", write],
    },
  ];
}

/** What all containers of the pod share. */
function podMounts({ pod, readonlyRootfs }: MountRequest): OciMount[] {
  const mounts: OciMount[] = [];
  if (pod.shm === "") {
    const options = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
    mounts.push({ destination: "/dev/shm", type: "tmpfs", source: "shm", options });
  } else {
    const options = ["bind", "rprivate", "rw", "nosuid", "noexec", "nodev"];
    mounts.push({ destination: "/dev/shm", type: "bind", source: pod.shm, options });
  }
  const write = readonlyRootfs ? "ro" : "rw";
  const file = (destination: string, source: string, mode: string) => {
    const options = ["bind", "rprivate", mode, "nosuid", "noexec", "nodev"];
    if (source !== "") mounts.push({ destination, type: "bind", source, options });
  };
  file("/etc/resolv.conf", pod.resolvConf, write);
  file("/etc/hostname", pod.hostnameFile, write);
  if (pod.hostsFile !== undefined) file("/etc/hosts", pod.hostsFile, write);
  // Pods in the host's network know its names; the file itself is the host's, so read-only.
  else if (pod.namespaces.net === undefined) file("/etc/hosts", "/etc/hosts", "ro");
  return mounts;
}
