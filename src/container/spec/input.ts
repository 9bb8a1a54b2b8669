import type { Config } from "../../config/schema.ts";
import type { ContainerConfig } from "../../gen/runtime/v1/container_config_pb.ts";
import type { PodSandboxConfig } from "../../gen/runtime/v1/pod_sandbox_config_pb.ts";
import type { HostFacts } from "../../linux/host.ts";
import type { RuntimeFeatures } from "../../runtime/features.ts";
import type { OciSpec } from "./oci.ts";

/**
 * What the spec takes from an OCI image configuration
 * (https://github.com/opencontainers/image-spec/blob/main/config.md). Absent and null are the same.
 */
export interface ImageDefaults {
  Env?: readonly string[] | null;
  Entrypoint?: readonly string[] | null;
  Cmd?: readonly string[] | null;
  WorkingDir?: string | null;
  User?: string | null;
  /** Paths; the keys of the image's own map. */
  Volumes?: readonly string[] | null;
  StopSignal?: string | null;
}

/** The host as a container sees it: `readHost()` plus the cgroup version. */
export interface SpecHost extends HostFacts {
  cgroupVersion: 1 | 2;
}

/** The pod as it runs: its paths exist. */
export interface SpecPod {
  id: string;
  config: PodSandboxConfig;
  /** Pins of the pod's own namespaces; absent: the pod uses the host's. */
  namespaces: { net?: string; ipc?: string; uts?: string; pid?: string };
  hostname: string;
  /** Host files to bind over the container's /etc/resolv.conf and /etc/hostname; "" binds none. */
  resolvConf: string;
  hostnameFile: string;
  /** A host file for /etc/hosts where the client mounts none; absent: the host's for host network. */
  hostsFile?: string;
  /** The host directory to bind at /dev/shm; "" gives the container a tmpfs of its own. */
  shm: string;
  privileged: boolean;
}

export interface SpecInput {
  pod: SpecPod;
  container: { id: string; config: ContainerConfig };
  image: { config: ImageDefaults };
  /** The mounted root file system: user files are read in it, image volumes are made in it. */
  rootfs: string;
  /** As the OCI runtime takes it: a path, or SLICE:PREFIX:NAME with the systemd driver. */
  cgroupsPath: string;
  systemdCgroup: boolean;
  /** The PID namespace of the container that NamespaceMode TARGET names (a path of it). */
  targetPidNamespace?: string;
  host: SpecHost;
  runtime: Pick<
    Config["runtime"],
    | "default_capabilities"
    | "default_ulimits"
    | "default_env"
    | "seccomp_profile"
    | "unset_seccomp_profile"
  >;
  /** The handler's list, else `runtime.allowed_annotations`. */
  allowedAnnotations: readonly string[];
  /** `container.pids_limit` of the configuration. */
  pidsLimit: Config["container"]["pids_limit"];
  /** `container.absent_mount_sources_to_reject` of the configuration. */
  absentMountSourcesToReject?: readonly string[];
  /** Where the images of `config.mounts` are mounted, by index. */
  imageSources?: ReadonlyMap<number, string>;
  features: RuntimeFeatures;
}

/** The ids that the container's first process starts with; `supplementalGroups` includes `gid`. */
export interface ContainerUser {
  uid: number;
  gid: number;
  supplementalGroups: number[];
}

export interface BuiltSpec {
  spec: OciSpec;
  user: ContainerUser;
  /** What was asked for and has less effect than its name says, for the log: one sentence each. */
  warnings: string[];
}
