import { expect, test } from "bun:test";
import { configJson } from "../../src/container/config-json.ts";
import type { Core } from "../../src/container/core.ts";
import { toContainer, toContainerStatus } from "../../src/container/status.ts";
import type { DeepPartial } from "../../src/gen/runtime/v1/common_pb.ts";
import { ContainerConfig } from "../../src/gen/runtime/v1/container_config_pb.ts";
import { LinuxContainerResources } from "../../src/gen/runtime/v1/resources_pb.ts";
import { keptContainerConfig } from "../../src/state/kept-config.ts";
import type { ContainerRecord } from "../../src/state/records.ts";
import { type Contract, fieldsOf, readContract } from "../fixtures/contract-reach.ts";

const VOLUME = "sha256:0f";
const store = { containerNotes: ({ config }: ContainerRecord) => config };
const core = {
  store,
  host: { oomScoreAdjMin: -500 },
  images: {
    find: (name: string) =>
      name === VOLUME ? { id: VOLUME, repoTags: [], repoDigests: [] } : undefined,
  },
} as unknown as Core;

const RESOURCES = LinuxContainerResources.fromPartial({
  cpuPeriod: 100_000n,
  cpuQuota: 50_000n,
  cpuShares: 512n,
  memoryLimitInBytes: 1n << 40n,
  oomScoreAdj: -400n,
  cpusetCpus: "0-1",
  cpusetMems: "0",
  hugepageLimits: [{ pageSize: "2MB", limit: 2n ** 63n }],
  unified: { "memory.high": "max" },
  memorySwapLimitInBytes: 1n << 40n,
});
const MOUNT = {
  containerPath: "/data",
  hostPath: "/srv",
  readonly: true,
  selinuxRelabel: true,
  propagation: 1,
  recursiveReadOnly: true,
  imageSubPath: "",
  mountOptions: ["noexec"],
};

function record(config: DeepPartial<ContainerConfig>): ContainerRecord {
  return {
    id: "c1",
    podId: "p1",
    config: keptContainerConfig(ContainerConfig.fromPartial(config)),
    imageId: "sha256:aa",
    imageRef: "registry.test/app:1",
    createdAtNs: 5n,
    cgroup: "/c",
    logPath: "/logs/0.log",
    layers: [],
    stopSignal: 10,
    phase: "running",
    user: { uid: 7, gid: 8, supplementalGroups: [8, 9] },
    pid: 1,
    startedAtNs: 6n,
    finishedAtNs: 0n,
    exitCode: 0,
    reason: "",
    message: "why",
    droppedLogBytes: 0n,
    unclaimed: false,
  };
}

const full = record({
  metadata: { name: "app", attempt: 3 },
  image: {
    image: "sha256:aa",
    annotations: { of: "the pod" },
    userSpecifiedImage: "app:1",
    runtimeHandler: "gate",
  },
  labels: { a: "b" },
  annotations: { c: "d" },
  mounts: [MOUNT],
  linux: { resources: RESOURCES },
});

test("a container's status says what was asked for and what came of it", () => {
  expect(toContainerStatus(core, full)).toMatchObject({
    metadata: { name: "app", attempt: 3 },
    image: { image: "app:1", annotations: { of: "the pod" }, userSpecifiedImage: "app:1" },
    imageId: "sha256:aa",
    message: "why",
    labels: { a: "b" },
    annotations: { c: "d" },
    mounts: [MOUNT],
    resources: { linux: RESOURCES },
    user: { linux: { uid: 7n, gid: 8n, supplementalGroups: [8n, 9n] } },
  });
});

const digest = (digit: number) => `sha256:${`${digit}`.repeat(64)}`;

test.each([
  ["b.io/app:1", "sha256:aa", `b.io/app@${digest(2)}`],
  ["", "b.io/app:1", `b.io/app@${digest(2)}`],
  [`b.io/app:1@${digest(3)}`, "sha256:aa", `b.io/app@${digest(3)}`],
  ["app", "sha256:aa", `docker.io/library/app@${digest(4)}`],
  ["", "sha256:aa", `a.io/app@${digest(1)}`],
  ["c.io/app:1", "sha256:aa", `a.io/app@${digest(1)}`],
])("of an image in several repositories, who asked for %j (%j) is told %j", (user, image, told) => {
  const repoDigests = [`a.io/app@${digest(1)}`, `b.io/app@${digest(2)}`, `b.io/app@${digest(3)}`];
  const images = {
    find: () => ({
      repoDigests: [...repoDigests, `docker.io/library/app@${digest(4)}`],
      repoTags: [],
    }),
  };
  const asked = { ...record({ image: { image, userSpecifiedImage: user } }), imageRef: image };
  expect(toContainerStatus({ ...core, images } as unknown as Core, asked).imageRef).toBe(told);
});

test("a container in a list has the same image, without a handler, as images have none", () => {
  expect(toContainer(full)).toMatchObject({
    image: { image: "sha256:aa", userSpecifiedImage: "app:1", runtimeHandler: "" },
    imageRef: "sha256:aa",
    imageId: "sha256:aa",
    createdAt: 5n,
    labels: { a: "b" },
    annotations: { c: "d" },
  });
  expect(toContainerStatus(core, full).image?.runtimeHandler).toBe("");
});

test("an oom_score_adj that the kernel did not let Crib set is not the one in the status", () => {
  const adj = (oomScoreAdj: bigint) =>
    toContainerStatus(core, record({ linux: { resources: { oomScoreAdj } } })).resources?.linux
      ?.oomScoreAdj;
  expect(adj(-997n)).toBe(-500n);
  expect(adj(-500n)).toBe(-500n);
  expect(adj(1000n)).toBe(1000n);
});

test("an image volume's mount tells the image's id", () => {
  const mounts = [{ containerPath: "/v", image: { image: VOLUME, userSpecifiedImage: "vol:1" } }];
  expect(toContainerStatus(core, record({ mounts })).mounts).toMatchObject([
    { image: { image: VOLUME, userSpecifiedImage: "vol:1", imageRef: VOLUME } },
  ]);
});

test("a configuration as JSON has the contract's names and what is set, numbers without loss", () => {
  const config = ContainerConfig.fromPartial({
    metadata: { name: "app", attempt: 0 },
    envs: [
      { key: "A", value: Buffer.from("ö") },
      { key: "EMPTY", value: Buffer.of() },
    ],
    args: ["", "x"],
    labels: { camelCase: "" },
    mounts: [{ ...MOUNT, uidMappings: [{ hostId: 1, containerId: 0, length: 2 }] }],
    linux: {
      resources: RESOURCES,
      securityContext: { privileged: true, runAsUser: { value: 0n }, namespaceOptions: { pid: 1 } },
    },
    CDIDevices: [{ name: "v/c=d" }],
  });
  expect(JSON.stringify(configJson(config))).toBe(
    JSON.stringify({
      metadata: { name: "app" },
      args: ["", "x"],
      envs: [{ key: "A", value: "ö" }, { key: "EMPTY" }],
      mounts: [
        {
          container_path: "/data",
          host_path: "/srv",
          readonly: true,
          selinux_relabel: true,
          propagation: 1,
          uidMappings: [{ host_id: 1, length: 2 }],
          recursive_read_only: true,
          mount_options: ["noexec"],
        },
      ],
      labels: { camelCase: "" },
      linux: {
        resources: {
          cpu_period: 100_000,
          cpu_quota: 50_000,
          cpu_shares: 512,
          memory_limit_in_bytes: 2 ** 40,
          oom_score_adj: -400,
          cpuset_cpus: "0-1",
          cpuset_mems: "0",
          hugepage_limits: [{ page_size: "2MB", limit: "LIMIT" }],
          unified: { "memory.high": "max" },
          memory_swap_limit_in_bytes: 2 ** 40,
        },
        security_context: { privileged: true, namespace_options: { pid: 1 }, run_as_user: {} },
      },
      CDI_devices: [{ name: "v/c=d" }],
    }).replace('"LIMIT"', "9223372036854775808"),
  );
});

test("a configuration as JSON names every field as the contract does, and takes maps for maps", () => {
  const contract = readContract();
  const fields = fieldsOf(contract, ["ContainerConfig", "PodSandboxConfig"], () => true);
  expect(fields.length).toBeGreaterThan(100);
  for (const field of fields) {
    const [message = "", name = ""] = field.split(".");
    const stub = name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
    expect(configJson({ [stub]: { aB: "x" } })).toEqual({
      [name]: isMap(contract, message, name) ? { aB: "x" } : { a_b: "x" },
    });
  }
});

function isMap({ messages }: Contract, message: string, name: string): boolean {
  const type = messages.get(message)?.field.find((it) => it.name === name)?.typeName ?? "";
  return type.endsWith("Entry");
}
