/**
 * CRI container configuration → OCI runtime configuration. Each field takes effect or is refused at
 * once; one file per concern.
 */
import { posix } from "node:path";
import { DEFAULT_APPARMOR } from "../apparmor-default.ts";
import { buildAnnotations } from "./annotations.ts";
import { buildCapabilities } from "./capabilities.ts";
import { buildDevices } from "./devices.ts";
import { buildHiddenPaths } from "./hidden-paths.ts";
import type { BuiltSpec, SpecInput } from "./input.ts";
import { buildAppArmor, checkSELinux } from "./lsm.ts";
import { buildMounts } from "./mounts.ts";
import { buildNamespaces } from "./namespaces.ts";
import type { OciLinux, OciProcess } from "./oci.ts";
import { buildArgs, buildEnvironment, buildRlimits, buildWorkingDirectory } from "./process.ts";
import { buildOomScoreAdj, buildPidsLimit, buildResources } from "./resources.ts";
import { buildSeccomp } from "./seccomp.ts";
import { type ResolvedUser, resolveUser } from "./user.ts";
import { validateContainer } from "./validate.ts";
import { makeImageVolumes } from "./volumes.ts";

export type {
  BuiltSpec,
  ContainerUser,
  ImageDefaults,
  SpecHost,
  SpecInput,
  SpecPod,
} from "./input.ts";
export type { OciSpec } from "./oci.ts";
export { buildResources } from "./resources.ts";
export { validateSandboxSecurity } from "./sandbox.ts";
export { type StopSignal, stopSignal } from "./signal.ts";

/** The version of the runtime-spec that the oldest supported runc (1.1) speaks. */
const OCI_VERSION = "1.0.2";
const SECURITY = "linux.security_context";

/**
 * Builds config.json; `JSON.stringify(spec)` is its text. Besides reading the image's user files it
 * makes missing mount sources on the host and missing image volumes in the root file system.
 *
 * @throws CribError InvalidArgument for nonsense, Unimplemented for what Crib does not support yet,
 * FailedPrecondition for what this host or OCI runtime cannot do; the message names field and value.
 */
export async function buildSpec(input: SpecInput): Promise<BuiltSpec> {
  validateContainer(input);
  const warnings: string[] = [];
  const take = <T extends { warnings: string[] }>(part: T): T => {
    warnings.push(...part.warnings);
    return part;
  };
  const security = input.container.config.linux?.securityContext;
  const user = await resolveUser({
    rootfs: input.rootfs,
    security,
    imageUser: input.image.config.User ?? "",
  });
  const { process, seccomp } = await buildProcess(input, user, take);
  const { annotations } = take(buildAnnotations(input));
  warnings.push(
    ...checkSELinux(security?.selinuxOptions, `${SECURITY}.selinux_options`, input.host),
  );
  const { mounts, linux } = await buildLinux(input, take);
  return {
    spec: {
      ociVersion: OCI_VERSION,
      process,
      root: { path: input.rootfs, readonly: security?.readonlyRootfs ?? false },
      mounts,
      annotations,
      linux: seccomp === undefined ? linux : { ...linux, seccomp },
    },
    user: { uid: user.uid, gid: user.gid, supplementalGroups: user.supplementalGroups },
    warnings,
  };
}

type Take = <T extends { warnings: string[] }>(part: T) => T;

async function buildProcess(input: SpecInput, user: ResolvedUser, take: Take) {
  const { config } = input.container;
  const image = input.image.config;
  const security = config.linux?.securityContext;
  const privileged = security?.privileged ?? false;
  const { capabilities } = take(
    buildCapabilities({
      requested: security?.capabilities,
      privileged,
      uid: user.uid,
      defaults: input.runtime.default_capabilities,
      available: input.host.capabilities,
    }),
  );
  const apparmorProfile = await buildAppArmor({
    profile: security?.apparmor,
    deprecated: security?.apparmorProfile ?? "",
    field: SECURITY,
    privileged,
    host: input.host,
    runtime: input.features,
  });
  const { seccomp } = take(
    await buildSeccomp({
      profile: security?.seccomp,
      deprecated: security?.seccompProfilePath ?? "",
      privileged,
      capabilities: capabilities.bounding,
      apparmor: apparmorProfile === DEFAULT_APPARMOR,
      defaultProfile: input.runtime.seccomp_profile,
      unset: input.runtime.unset_seccomp_profile,
      supported: input.features.seccomp,
    }),
  );
  const { env } = take(
    buildEnvironment({
      envs: config.envs,
      image,
      defaults: input.runtime.default_env,
      hostname: input.pod.hostname,
      home: user.home,
      terminal: config.tty,
    }),
  );
  const { oomScoreAdj } = take(buildOomScoreAdj(config.linux?.resources, input.host));
  const process: OciProcess = {
    terminal: config.tty,
    user: { uid: user.uid, gid: user.gid, additionalGids: user.supplementalGroups },
    args: buildArgs(config, image),
    env,
    cwd: buildWorkingDirectory(config.workingDir, image),
    capabilities,
    rlimits: buildRlimits(input.runtime.default_ulimits, input.host.openFilesMax),
    noNewPrivileges: security?.noNewPrivs ?? false,
    oomScoreAdj,
  };
  if (apparmorProfile !== undefined) process.apparmorProfile = apparmorProfile;
  return { process, seccomp };
}

async function buildLinux(input: SpecInput, take: Take) {
  const { config } = input.container;
  const security = config.linux?.securityContext;
  const privileged = security?.privileged ?? false;
  const namespaces = buildNamespaces({
    pod: input.pod,
    options: security?.namespaceOptions,
    targetPidNamespace: input.targetPidNamespace,
    privateCgroup: input.host.cgroupVersion === 2 && !privileged,
  });
  const { resources } = take(buildResources(config.linux?.resources, input.host));
  const pids = buildPidsLimit(input.pidsLimit, config.linux?.resources, input.host);
  const { devices, rules } = await buildDevices({
    devices: config.devices,
    privileged,
    mountsDev: config.mounts.some(({ containerPath }) => posix.resolve(containerPath) === "/dev"),
  });
  const { mounts, destinations, rootfsPropagation } = await buildMounts({
    mounts: config.mounts,
    pod: input.pod,
    privileged,
    readonlyRootfs: security?.readonlyRootfs ?? false,
    host: input.host,
    features: input.features,
    absentMountSourcesToReject: input.absentMountSourcesToReject ?? [],
    imageSources: input.imageSources ?? new Map(),
  });
  await makeImageVolumes(input.rootfs, input.image.config.Volumes, destinations);
  const linux: OciLinux = {
    namespaces,
    cgroupsPath: input.cgroupsPath,
    resources: { devices: rules, ...resources, ...pids },
    devices,
    ...buildHiddenPaths(security, privileged),
  };
  if (rootfsPropagation !== undefined) linux.rootfsPropagation = rootfsPropagation;
  return { mounts, linux };
}
