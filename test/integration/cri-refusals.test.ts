/** What cannot be had is refused with the right code, a message that names field and value, and no trace. */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type ContainerConfig,
  type MadePod,
  type PodConfig,
  refusal,
  startNode,
  type TestNode,
} from "../fixtures/pods.ts";

let node: TestNode;
let pod: MadePod;
let before: string[];

beforeAll(async () => {
  node = await startNode();
  pod = await node.pod();
  await node.runtime.status({ verbose: true });
  before = node.leftovers();
});

afterEach(async () => {
  const more = node.leftovers().filter((line) => !before.includes(line));
  for (const { id } of (await node.runtime.listPodSandbox({})).items) {
    if (id !== pod.id) await node.remove({ id, config: {} });
  }
  for (const { id } of (await node.runtime.listContainers({})).containers) {
    await node.runtime.removeContainer({ containerId: id });
  }
  expect(more).toEqual([]);
});

afterAll(async () => {
  await node.stop();
});

const metadata = { name: "n", namespace: "ns", uid: "u", attempt: 0 };
const security = (securityContext: object) => ({ linux: { securityContext } }) as PodConfig;
const port = (mapping: object) => ({ portMappings: [mapping] }) as PodConfig;
const sysctl = (name: string, value = "1"): PodConfig => ({
  linux: { sysctls: { [name]: value } },
});

const pods: Array<[string, PodConfig, string, ...string[]]> = [
  ["no metadata", { metadata: undefined }, "InvalidArgument", "metadata"],
  ["empty name", { metadata: { ...metadata, name: "" } }, "InvalidArgument", "metadata.name"],
  [
    "empty namespace",
    { metadata: { ...metadata, namespace: "" } },
    "InvalidArgument",
    "metadata.namespace",
  ],
  ["empty uid", { metadata: { ...metadata, uid: "" } }, "InvalidArgument", "metadata.uid"],
  ["bad host name", { hostname: "a_b!" }, "InvalidArgument", "hostname", "a_b!"],
  ["long host name", { hostname: "a".repeat(65) }, "InvalidArgument", "hostname"],
  ["host name with a line break", { hostname: "a\nb" }, "InvalidArgument", "hostname"],
  ["relative log directory", { logDirectory: "logs" }, "InvalidArgument", "log_directory", "logs"],
  [
    "port out of range",
    port({ containerPort: 70_000 }),
    "InvalidArgument",
    "port_mappings[0].container_port",
    "70000",
  ],
  [
    "negative host port",
    port({ containerPort: 80, hostPort: -1 }),
    "InvalidArgument",
    "port_mappings[0].host_port",
    "-1",
  ],
  [
    "unknown protocol",
    port({ containerPort: 80, protocol: 9 }),
    "InvalidArgument",
    "port_mappings[0].protocol",
    "9",
  ],
  [
    "host IP that is none",
    port({ containerPort: 80, hostPort: 18_080, hostIp: "1.2.3" }),
    "InvalidArgument",
    "host",
    "1.2.3",
  ],
  ["sysctl of the node", sysctl("vm.swappiness"), "InvalidArgument", "sysctls", "vm.swappiness"],
  ["sysctl that leaves /proc/sys", sysctl("net/../../x"), "InvalidArgument", "net/../../x"],
  ["sysctl with a line break", sysctl("net.ipv4.ip_forward", "1\n2"), "InvalidArgument", "sysctls"],
  [
    "sysctl of the host's network",
    {
      linux: {
        sysctls: { "net.ipv4.ip_forward": "1" },
        securityContext: { namespaceOptions: { network: 2 } },
      },
    },
    "InvalidArgument",
    "net.ipv4.ip_forward",
  ],
  ["sysctl that is not there", sysctl("net.nonexistent"), "InvalidArgument", "net.nonexistent"],
  [
    "relative cgroup parent",
    { linux: { cgroupParent: "a/b" } },
    "InvalidArgument",
    "config.linux.cgroup_parent",
    "a/b",
  ],
  ["cgroup parent that climbs", { linux: { cgroupParent: "/../x" } }, "InvalidArgument", "/../x"],
  [
    "user namespace",
    security({ namespaceOptions: { usernsOptions: { mode: 0 } } }),
    "Unimplemented",
    "userns",
  ],
  [
    "target PID namespace for a pod",
    security({ namespaceOptions: { pid: 3, targetId: "x" } }),
    "InvalidArgument",
    "pid",
    "TARGET",
  ],
  [
    "a target without such a PID namespace",
    security({ namespaceOptions: { pid: 1, targetId: "x" } }),
    "InvalidArgument",
    "target_id",
    "x",
  ],
  [
    "host port that is not the port in the host's network",
    {
      ...port({ containerPort: 80, hostPort: 8080 }),
      ...security({ namespaceOptions: { network: 2 } }),
    },
    "InvalidArgument",
    "port_mappings[0].host_port",
    "8080",
  ],
  [
    "bandwidth that no plugin limits",
    { annotations: { "kubernetes.io/egress-bandwidth": "10M" } },
    "FailedPrecondition",
    'config.annotations["kubernetes.io/egress-bandwidth"]: "10M"',
  ],
  ["Windows", { windows: {} }, "InvalidArgument", "windows"],
  [
    "DNS server with a line break",
    { dnsConfig: { servers: ["1.1.1.1\nx"] } },
    "InvalidArgument",
    "dns",
  ],
];

test.each(pods)("a pod with %s is refused", async (_, changes, code, ...words) => {
  const refused = await refusal(node.pod(changes));
  for (const word of words) expect(refused.message).toContain(word);
  expect(refused.code).toBe(code);
});

test("no configuration at all, and an unknown handler, are refused", async () => {
  expect(await refusal(node.runtime.runPodSandbox({}))).toMatchObject({
    code: "InvalidArgument",
    message: expect.stringContaining("config"),
  });
  const config = node.podConfig();
  const unknown = node.runtime.runPodSandbox({ config, runtimeHandler: "kata" });
  expect(await refusal(unknown)).toMatchObject({
    code: "InvalidArgument",
    message: expect.stringContaining('runtime_handler: "kata"'),
  });
  expect(await refusal(node.runtime.createContainer({ podSandboxId: pod.id }))).toMatchObject({
    code: "InvalidArgument",
  });
});

test("host ports that no plugin maps are refused, and work once one does", async () => {
  const mapped = port({ containerPort: 80, hostPort: 18_081 });
  const conflist = join(node.directory, "cni/10-test.conflist");
  const network = JSON.parse(readFileSync(conflist, "utf8"));
  network.plugins.pop();
  writeFileSync(conflist, JSON.stringify(network));
  try {
    expect(await refusal(node.pod(mapped))).toEqual({
      code: "FailedPrecondition",
      message: expect.stringContaining(
        "config.port_mappings[0].host_port: 18081: no plugin of network test has the capability",
      ),
    });
    expect(node.leftovers().filter((line) => !before.includes(line))).toEqual([]);
  } finally {
    node.writeNetwork();
  }
  await node.remove(await node.pod(mapped));
});

test("an image for an unknown handler, and a field of answers, are refused by every call", async () => {
  const call = (image: object) => [
    node.imageService.pullImage({ image }),
    node.imageService.imageStatus({ image }),
    node.imageService.removeImage({ image }),
    node.imageService.listImages({ filter: { image } }),
    node.create(pod, { image }),
    node.create(pod, { mounts: [{ containerPath: "/v", image, readonly: true }] }),
  ];
  for (const [field, value] of [
    ["runtimeHandler", "kata"],
    ["imageRef", "sha256:0"],
  ] as const) {
    const name = field.replace(/[A-Z]/, (letter) => `_${letter.toLowerCase()}`);
    for (const refused of call({ image: node.image, [field]: value })) {
      const { code, message } = await refusal(refused);
      expect(message).toContain(`image.${name}: "${value}"`);
      expect(code).toBe("InvalidArgument");
    }
  }
  const known = { image: node.image, runtimeHandler: "gate", annotations: { note: "of the pod" } };
  expect((await node.imageService.imageStatus({ image: known })).image).toBeDefined();
});

test("a container for another pod than the one that is named is refused", async () => {
  const { metadata: made = {}, ...config } = pod.config;
  const create = (sandboxConfig: PodConfig) =>
    node.runtime.createContainer({
      podSandboxId: pod.id,
      config: node.containerConfig(),
      sandboxConfig,
    });
  for (const [change, words] of [
    [{ metadata: { ...made, name: "other" } }, 'metadata.name: "other"'],
    [{ metadata: { ...made, attempt: 7 } }, "metadata.attempt: 7"],
    [security({ namespaceOptions: { pid: 1, network: 2 } }), 'options.network: "NODE"'],
  ] as Array<[PodConfig, string]>) {
    const { code, message } = await refusal(create({ ...config, metadata: made, ...change }));
    expect(message).toContain(`sandbox_config.`);
    expect(message).toContain(words);
    expect(code).toBe("InvalidArgument");
  }
  // What a kubelet may send anew for a pod that runs.
  const anew = {
    labels: { a: "b" },
    annotations: { c: "d" },
    linux: { resources: { cpuShares: 9n } },
  };
  // And crictl, whose file names no uid.
  const metadata = { ...made, uid: "made-up" };
  const again = { ...config, metadata, ...anew, dnsConfig: { servers: ["10.0.0.1"] } };
  await node.runtime.removeContainer(await create(again));
});

test("a stop in less than no time, and an attach as to another container, are refused", async () => {
  const { id } = await node.run(pod);
  expect(await refusal(node.runtime.stopContainer({ containerId: id, timeout: -1n }))).toEqual({
    code: "InvalidArgument",
    message: expect.stringContaining("timeout: -1 is negative"),
  });
  const attach = node.runtime.attach({ containerId: id, stdout: true, tty: true });
  expect(await refusal(attach)).toEqual({
    code: "InvalidArgument",
    message: expect.stringContaining("tty: true: the container was made with tty false"),
  });
  await node.runtime.removeContainer({ containerId: id });
});

test("a log path in a pod without a log directory is refused", async () => {
  const silent = await node.pod({ logDirectory: "" });
  expect(await refusal(node.create(silent, { logPath: "0.log" }))).toEqual({
    code: "InvalidArgument",
    message: expect.stringContaining('log_path: "0.log"'),
  });
  await node.remove(silent);
});

const own = { namespaceOptions: { pid: 1 } };
const limits = (resources: object) =>
  ({ linux: { resources, securityContext: own } }) as ContainerConfig;
const context = (securityContext: object) =>
  ({ linux: { securityContext: { ...own, ...securityContext } } }) as ContainerConfig;

const containers: Array<[string, ContainerConfig, string, ...string[]]> = [
  ["no metadata", { metadata: undefined }, "InvalidArgument", "metadata"],
  ["an empty name", { metadata: { name: "", attempt: 0 } }, "InvalidArgument", "metadata.name"],
  ["no image", { image: undefined }, "InvalidArgument", "image"],
  ["an unknown image", { image: { image: "nope:1" } }, "NotFound", "nope:1"],
  ["a log path that climbs", { logPath: "../../x" }, "InvalidArgument", "log_path", "../../x"],
  ["privileges that the pod lacks", context({ privileged: true }), "InvalidArgument", "privileged"],
  [
    "a CDI device by annotation",
    { annotations: { "cdi.k8s.io/plugin": "v/c=d" } },
    "Unimplemented",
    'annotations["cdi.k8s.io/plugin"]: "v/c=d"',
  ],
  ["a CDI device", { CDIDevices: [{ name: "v/c=d" }] }, "Unimplemented", "v/c=d"],
  [
    "an unknown capability",
    context({ capabilities: { addCapabilities: ["FLY"] } }),
    "InvalidArgument",
    "FLY",
  ],
  [
    "a CPU quota that Linux refuses",
    limits({ cpuPeriod: 5n, cpuQuota: 10n }),
    "InvalidArgument",
    "cpu_quota",
  ],
  [
    "a relative mount",
    { mounts: [{ containerPath: "x", hostPath: "/tmp" }] },
    "InvalidArgument",
    "mounts[0]",
  ],
  [
    "a device that is not there",
    { devices: [{ hostPath: "/dev/nope", containerPath: "/dev/nope", permissions: "rw" }] },
    "InvalidArgument",
    "/dev/nope",
  ],
  ["an environment variable without a name", { envs: [{ key: "" }] }, "InvalidArgument", "env"],
  [
    "the host's network in a pod without",
    context({ namespaceOptions: { network: 2, pid: 1 } }),
    "InvalidArgument",
    "network",
  ],
  [
    "a target that is not there",
    context({ namespaceOptions: { pid: 3, targetId: "f".repeat(64) } }),
    "NotFound",
    "ffff",
  ],
  ["an unknown user", context({ runAsUsername: "nobody-here" }), "InvalidArgument", "nobody-here"],
];

test.each(containers)("a container with %s is refused", async (_, changes, code, ...words) => {
  const refused = await refusal(node.create(pod, changes));
  for (const word of words) expect(refused.message).toContain(word);
  expect(refused.code).toBe(code);
});
