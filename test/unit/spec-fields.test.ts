/**
 * Every field that Crib is asked with or answers with has a row (test/fixtures/contract-requests.ts): it takes
 * effect, or it is refused, or the contract says that it has none. A field that a new api.proto brings fails
 * this test until somebody has decided. What becomes of a container's fields is shown here.
 */

import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildSpec, type SpecInput } from "../../src/container/spec/index.ts";
import { validateSandboxSecurity } from "../../src/container/spec/sandbox.ts";
import { CribError } from "../../src/error.ts";
import type { DeepPartial } from "../../src/gen/runtime/v1/common_pb.ts";
import type { Device, Mount } from "../../src/gen/runtime/v1/container_config_pb.ts";
import { LinuxSandboxSecurityContext } from "../../src/gen/runtime/v1/pod_sandbox_config_pb.ts";
import {
  NamespaceMode,
  type NamespaceOption,
  SecurityProfile_ProfileType as ProfileType,
  type SupplementalGroupsPolicy,
} from "../../src/gen/runtime/v1/security_pb.ts";
import { answerFields } from "../fixtures/contract-answers.ts";
import { fieldsOf, readContract } from "../fixtures/contract-reach.ts";
import { type RequestFate, requestFields } from "../fixtures/contract-requests.ts";
import {
  ableHost,
  type ContainerInit,
  type SecurityInit,
  specInput,
} from "../fixtures/spec-input.ts";

type MountInit = DeepPartial<Mount>;
type DeviceInit = DeepPartial<Device>;
type NamespaceInit = DeepPartial<NamespaceOption>;
type SandboxInit = DeepPartial<LinuxSandboxSecurityContext>;

/** As the stubs write a field. */
const stubName = (field: string) => field.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());

const contract = readContract();

describe.each([
  ["requests", contract.requests, requestFields],
  ["answers", contract.answers, answerFields],
] as const)("the fields of %s", (_, reached, table) => {
  const fateOf = (field: string) => {
    const [message = "", name = ""] = field.split(".");
    return table[message]?.[name] ?? "(no row)";
  };
  const rows = Object.entries(table).flatMap(([message, fields]) =>
    Object.keys(fields).map((name) => `${message}.${name}`),
  );

  test("have a row each, and each row has a field", () => {
    const fields = fieldsOf(
      contract,
      reached,
      (field) => !/^(refused|ignored|never)/.test(fateOf(field)),
    );
    const optional = fieldsOf(contract, reached, () => true);
    expect(fields.filter((field) => fateOf(field) === "(no row)")).toEqual([]);
    expect(rows.filter((row) => !optional.includes(row))).toEqual([]);
  });

  test("are messages where their row says that their parts have rows", () => {
    const parts = rows.filter((row) => fateOf(row) === "parts");
    expect(parts.filter((row) => contract.typeOf(row) === undefined)).toEqual([]);
  });

  test("are in the test that their row names", () => {
    const strayed = rows.filter((row) => {
      const [, room, name] = / ([IU]):(.+)$/.exec(fateOf(row)) ?? [];
      if (room === undefined) return false;
      const directory = room === "I" ? "integration" : "unit";
      const path = join(import.meta.dir, "..", directory, `${name}.test.ts`);
      const field = row.split(".")[1] ?? "";
      const named = new RegExp(`\\b(${field}|${stubName(field)})\\b`);
      return !existsSync(path) || !named.test(readFileSync(path, "utf8"));
    });
    expect(strayed).toEqual([]);
  });

  test("without effect are called so by the contract's comment", () => {
    const ignored = rows.filter((row) => fateOf(row) === "ignored");
    const silent = ignored.filter((row) => !/\bno effect\b/.test(contract.commentOf(row)));
    expect(silent).toEqual([]);
  });
});

test("an RPC is there or answers Unimplemented: only those that are there have rows", () => {
  expect(contract.absent).not.toContain("RunPodSandbox");
  expect(contract.absent).toContain("CheckpointPod");
});

const mount = { hostPath: "/", containerPath: "/mnt" };
const security = (context: SecurityInit): ContainerInit => ({
  linux: { securityContext: context },
});
const resources = (limits: NonNullable<ContainerInit["linux"]>["resources"]): ContainerInit => ({
  linux: { resources: limits },
});
const devices = (...changes: DeviceInit[]): [ContainerInit, ContainerInit] => {
  const [a, b] = changes.map((change) => ({
    devices: [{ hostPath: "/dev/null", containerPath: "/dev/x", permissions: "r", ...change }],
  }));
  return [a ?? {}, b ?? {}];
};
const mapping = [{ containerId: 0, hostId: 1000, length: 10 }];

/** For each "MESSAGE.FIELD": [a container without, a container with it]; the spec must differ. */
const effects: Record<string, [ContainerInit, ContainerInit]> = {
  "ContainerConfig.metadata": [{}, { metadata: { name: "other" } }],
  "ContainerConfig.image": [{}, { image: { image: "other" } }],
  "ContainerConfig.command": [{}, { command: ["/other"] }],
  "ContainerConfig.args": [{}, { args: ["x"] }],
  "ContainerConfig.working_dir": [{}, { workingDir: "/tmp" }],
  "ContainerConfig.envs": [{}, { envs: [{ key: "A", value: Buffer.from("1") }] }],
  "ContainerConfig.mounts": [{}, { mounts: [mount] }],
  "ContainerConfig.devices": [
    {},
    { devices: [{ hostPath: "/dev/null", containerPath: "/dev/x", permissions: "r" }] },
  ],
  "ContainerConfig.labels": [{}, { labels: { "io.kubernetes.pod.name": "b" } }],
  "ContainerConfig.annotations": [{}, { annotations: { "io.kubernetes.container.a": "b" } }],
  "ContainerConfig.tty": [{}, { tty: true }],
  "LinuxContainerSecurityContext.capabilities": [
    {},
    security({ capabilities: { addCapabilities: ["NET_RAW"] } }),
  ],
  "LinuxContainerSecurityContext.privileged": [{}, security({ privileged: true })],
  "LinuxContainerSecurityContext.namespace_options": [
    {},
    security({ namespaceOptions: { pid: NamespaceMode.CONTAINER } }),
  ],
  "LinuxContainerSecurityContext.run_as_user": [{}, security({ runAsUser: { value: 5n } })],
  "LinuxContainerSecurityContext.run_as_group": [
    security({ runAsUser: { value: 5n } }),
    security({ runAsUser: { value: 5n }, runAsGroup: { value: 6n } }),
  ],
  "LinuxContainerSecurityContext.run_as_username": [{}, security({ runAsUsername: "app" })],
  "LinuxContainerSecurityContext.readonly_rootfs": [{}, security({ readonlyRootfs: true })],
  "LinuxContainerSecurityContext.supplemental_groups": [{}, security({ supplementalGroups: [9n] })],
  "LinuxContainerSecurityContext.supplemental_groups_policy": [
    security({ runAsUsername: "app" }),
    security({ runAsUsername: "app", supplementalGroupsPolicy: 1 }),
  ],
  "LinuxContainerSecurityContext.no_new_privs": [{}, security({ noNewPrivs: true })],
  "LinuxContainerSecurityContext.masked_paths": [{}, security({ maskedPaths: ["/x"] })],
  "LinuxContainerSecurityContext.readonly_paths": [{}, security({ readonlyPaths: ["/x"] })],
  "LinuxContainerSecurityContext.seccomp": [{}, security({ seccomp: {} })],
  "LinuxContainerSecurityContext.seccomp_profile_path": [
    {},
    security({ seccompProfilePath: "runtime/default" }),
  ],
  "LinuxContainerResources.cpu_period": [{}, resources({ cpuPeriod: 100_000n })],
  "LinuxContainerResources.cpu_quota": [{}, resources({ cpuQuota: 50_000n })],
  "LinuxContainerResources.cpu_shares": [{}, resources({ cpuShares: 2n })],
  "LinuxContainerResources.memory_limit_in_bytes": [
    {},
    resources({ memoryLimitInBytes: 1n << 30n }),
  ],
  "LinuxContainerResources.oom_score_adj": [{}, resources({ oomScoreAdj: 1n })],
  "LinuxContainerResources.cpuset_cpus": [{}, resources({ cpusetCpus: "0" })],
  "LinuxContainerResources.cpuset_mems": [{}, resources({ cpusetMems: "0" })],
  "LinuxContainerResources.hugepage_limits": [
    {},
    resources({ hugepageLimits: [{ pageSize: "2MB", limit: 0n }] }),
  ],
  "LinuxContainerResources.unified": [{}, resources({ unified: { "memory.high": "1" } })],
  "LinuxContainerResources.memory_swap_limit_in_bytes": [
    resources({ memoryLimitInBytes: 1n << 30n }),
    resources({ memoryLimitInBytes: 1n << 30n, memorySwapLimitInBytes: 1n << 31n }),
  ],
  "HugepageLimit.page_size": [
    resources({ hugepageLimits: [{ pageSize: "2MB", limit: 0n }] }),
    resources({ hugepageLimits: [{ pageSize: "1GB", limit: 0n }] }),
  ],
  "HugepageLimit.limit": [
    resources({ hugepageLimits: [{ pageSize: "2MB", limit: 0n }] }),
    resources({ hugepageLimits: [{ pageSize: "2MB", limit: 4n << 20n }] }),
  ],
  "Mount.container_path": [{ mounts: [mount] }, { mounts: [{ ...mount, containerPath: "/b" }] }],
  "Mount.host_path": [{ mounts: [mount] }, { mounts: [{ ...mount, hostPath: "/usr" }] }],
  "Mount.readonly": [{ mounts: [mount] }, { mounts: [{ ...mount, readonly: true }] }],
  "Mount.recursive_read_only": [
    { mounts: [{ ...mount, readonly: true }] },
    { mounts: [{ ...mount, readonly: true, recursiveReadOnly: true }] },
  ],
  "Mount.mount_options": [
    { mounts: [mount] },
    { mounts: [{ ...mount, mountOptions: ["noexec"] }] },
  ],
  "Device.container_path": devices({ containerPath: "/dev/a" }, { containerPath: "/dev/b" }),
  "Device.host_path": devices({ hostPath: "/dev/null" }, { hostPath: "/dev/zero" }),
  "Device.permissions": devices({ permissions: "r" }, { permissions: "rw" }),
  "Capability.add_capabilities": [{}, security({ capabilities: { addCapabilities: ["NET_RAW"] } })],
  "Capability.drop_capabilities": [{}, security({ capabilities: { dropCapabilities: ["KILL"] } })],
  "Capability.add_ambient_capabilities": [
    {},
    security({ capabilities: { addAmbientCapabilities: ["KILL"] } }),
  ],
  "NamespaceOption.pid": [{}, security({ namespaceOptions: { pid: NamespaceMode.CONTAINER } })],
  "SecurityProfile.profile_type": [
    security({ seccomp: {} }),
    security({ seccomp: { profileType: ProfileType.Unconfined } }),
  ],
};

interface Refusal {
  container: ContainerInit;
  more?: Parameters<typeof specInput>[2];
  code: string;
  says: string;
}

const userns = (
  usernsOptions: NamespaceInit["usernsOptions"],
  says: string,
  code: string,
): Refusal => ({
  container: security({ namespaceOptions: { usernsOptions } }),
  code,
  says,
});
const selinux = (option: SecurityInit["selinuxOptions"], value: string): Refusal => ({
  container: security({ selinuxOptions: option }),
  more: { host: { ...ableHost, selinux: true } },
  code: "Unimplemented",
  says: `linux.security_context.selinux_options: "${value}"`,
});
const mounted = (change: MountInit, code: string, says: string): Refusal => ({
  container: { mounts: [{ ...mount, ...change }] },
  more: { host: { ...ableHost, selinux: true } },
  code,
  says: `mounts[0].${says}`,
});

/** For each refused "MESSAGE.FIELD": what is refused, with which code, and what the message says. */
const refusals: Record<string, Refusal> = {
  "ContainerConfig.windows": {
    container: { windows: {} },
    code: "InvalidArgument",
    says: "windows",
  },
  "ContainerConfig.CDI_devices": {
    container: { CDIDevices: [{ name: "vendor.test/gpu=0" }] },
    code: "Unimplemented",
    says: 'CDI_devices[0]: "vendor.test/gpu=0"',
  },
  "LinuxContainerSecurityContext.selinux_options": selinux({ level: "s0:c1,c2" }, "s0:c1,c2"),
  "SELinuxOption.user": selinux({ user: "u" }, "u"),
  "SELinuxOption.role": selinux({ role: "r" }, "r"),
  "SELinuxOption.type": selinux({ type: "t" }, "t"),
  "SELinuxOption.level": selinux({ level: "l" }, "l"),
  "Mount.selinux_relabel": mounted(
    { selinuxRelabel: true },
    "Unimplemented",
    "selinux_relabel: true",
  ),
  "Mount.uidMappings": mounted(
    { uidMappings: mapping },
    "Unimplemented",
    'uidMappings: "0:1000:10"',
  ),
  "Mount.gidMappings": mounted(
    { gidMappings: mapping },
    "Unimplemented",
    'gidMappings: "0:1000:10"',
  ),
  "NamespaceOption.network": {
    container: security({ namespaceOptions: { network: NamespaceMode.NODE } }),
    code: "InvalidArgument",
    says: 'namespace_options.network: "NODE"',
  },
  "NamespaceOption.ipc": {
    container: security({ namespaceOptions: { ipc: NamespaceMode.CONTAINER } }),
    code: "Unimplemented",
    says: 'namespace_options.ipc: "CONTAINER"',
  },
  "NamespaceOption.target_id": {
    container: security({ namespaceOptions: { targetId: "abc" } }),
    code: "InvalidArgument",
    says: 'namespace_options.target_id: "abc"',
  },
  "NamespaceOption.userns_options": userns({}, 'userns_options.mode: "POD"', "Unimplemented"),
  "UserNamespace.mode": userns({ mode: NamespaceMode.TARGET }, '"TARGET"', "InvalidArgument"),
  "UserNamespace.uids": userns(
    { mode: NamespaceMode.NODE, uids: mapping },
    "userns_options",
    "InvalidArgument",
  ),
  "UserNamespace.gids": userns(
    { mode: NamespaceMode.NODE, gids: mapping },
    "userns_options",
    "InvalidArgument",
  ),
  "SecurityProfile.localhost_ref": {
    container: security({ seccomp: { localhostRef: "/x" } }),
    code: "InvalidArgument",
    says: 'seccomp.localhost_ref: "/x"',
  },
  "LinuxSandboxSecurityContext.privileged": {
    container: security({ privileged: true }),
    more: { pod: { privileged: false } },
    code: "InvalidArgument",
    says: "linux.security_context.privileged: true",
  },
};

const rootfs = mkdtempSync(join(tmpdir(), "crib-spec-fields-"));
mkdirSync(join(rootfs, "etc"));
writeFileSync(join(rootfs, "etc/passwd"), "app:x:1000:1000::/:/bin/sh\n");
writeFileSync(join(rootfs, "etc/group"), "shared:x:50000:app\n");
afterAll(() => rmSync(rootfs, { recursive: true }));

function input(container: ContainerInit, more: Refusal["more"] = {}): SpecInput {
  const { pod, ...rest } = more;
  return specInput(rootfs, container, { ...rest, pod: { privileged: true, ...pod } });
}

function listed(fate: RequestFate): string[] {
  return Object.entries(requestFields).flatMap(([message, fields]) =>
    Object.keys(fields)
      .filter((name) => fields[name] === fate)
      .map((name) => `${message}.${name}`),
  );
}

test("each field is shown to work, or to be refused, as its list says", () => {
  const sandbox = "LinuxSandboxSecurityContext.selinux_options"; // the last test here
  expect(Object.keys(effects).sort()).toEqual(listed("spec").sort());
  expect([...Object.keys(refusals), sandbox].sort()).toEqual(listed("refused").sort());
});

test.each(Object.entries(effects))("%s changes the spec", async (_, [without, withIt]) => {
  const { spec: before } = await buildSpec(input(without));
  const { spec: after } = await buildSpec(input(withIt));
  expect(after).not.toEqual(before);
});

test.each(Object.entries(refusals))("%s is refused by name and value", async (_, refusal) => {
  const attempt = buildSpec(input(refusal.container, refusal.more));
  const error: unknown = await attempt.catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(CribError);
  expect(error).toMatchObject({ code: refusal.code });
  expect(String(error)).toContain(refusal.says);
});

describe("a pod's security context", () => {
  const check = (init: SandboxInit, host = { apparmor: false, selinux: false }) =>
    validateSandboxSecurity(LinuxSandboxSecurityContext.fromPartial(init), host);

  test.each<[string, SandboxInit, string]>([
    ["a group without a user", { runAsGroup: { value: 1n } }, "run_as_group"],
    ["a user below 0", { runAsUser: { value: -1n } }, "run_as_user: -1"],
    ["a group above 32 bits", { supplementalGroups: [1n << 40n] }, "supplemental_groups[0]"],
    [
      "an unknown policy",
      { supplementalGroupsPolicy: 9 as SupplementalGroupsPolicy },
      "supplemental_groups_policy: 9",
    ],
    ["a user namespace", { namespaceOptions: { usernsOptions: {} } }, "userns_options.mode"],
    ["an unknown seccomp path", { seccompProfilePath: "strict" }, 'seccomp_profile_path: "strict"'],
    [
      "a seccomp Localhost without a file",
      { seccomp: { profileType: 2 } },
      "seccomp.localhost_ref",
    ],
    ["AppArmor where it is off", { apparmor: { profileType: 2, localhostRef: "p" } }, '"p"'],
  ])("with %s is refused", (_, init, says) => {
    expect(() => check(init)).toThrow(says);
  });

  test("with SELinux labels is refused where SELinux is on, and warned about where it is off", () => {
    const init = { selinuxOptions: { level: "s0" } };
    expect(() => check(init, { apparmor: false, selinux: true })).toThrow("selinux_options");
    expect(check(init)).toEqual([expect.stringContaining("selinux_options: s0 has no effect")]);
  });

  test("as the kubelet sends it is accepted without a word", () => {
    const init = {
      namespaceOptions: { pid: NamespaceMode.CONTAINER },
      runAsUser: { value: 1000n },
      runAsGroup: { value: 1000n },
      supplementalGroups: [2000n],
      seccomp: { profileType: ProfileType.RuntimeDefault },
      readonlyRootfs: true,
    };
    expect(check(init)).toEqual([]);
  });
});
