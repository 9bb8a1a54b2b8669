import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Core } from "../../src/container/core.ts";
import { logPathOf } from "../../src/container/paths.ts";
import type { DeepPartial } from "../../src/gen/runtime/v1/common_pb.ts";
import { DNSConfig, PodSandboxConfig } from "../../src/gen/runtime/v1/pod_sandbox_config_pb.ts";
import { NamespaceMode } from "../../src/gen/runtime/v1/security_pb.ts";
import { resolvConf } from "../../src/pod/files.ts";
import { dottedSysctl, namespaceModes, validatePod } from "../../src/pod/validate.ts";

type Init = DeepPartial<PodSandboxConfig>;

const core = { host: { apparmor: false, selinux: false } } as unknown as Core;
const metadata = { name: "n", namespace: "ns", uid: "u", attempt: 0 };

function validate(changes: Init): void {
  validatePod(core, PodSandboxConfig.fromPartial({ metadata, ...changes }));
}

const sysctl = (name: string, options = {}): Init => ({
  linux: { sysctls: { [name]: "1" }, securityContext: { namespaceOptions: options } },
});

const hostNetwork = (more: Init): Init => ({
  linux: { securityContext: { namespaceOptions: { network: 2 } } },
  ...more,
});
const web = (containerPort: number, hostPort: number) => ({ containerPort, hostPort });

test.each([
  ["nothing but metadata", {}],
  ["a host name", { hostname: "Web-1.example" }],
  ["the longest host name", { hostname: "a".repeat(64) }],
  ["a log directory", { logDirectory: "/var/log/pods/x" }],
  ["ports", { portMappings: [{ containerPort: 65535, hostPort: 0, protocol: 2 }] }],
  ["an IPv4 host address", { portMappings: [{ containerPort: 1, hostIp: "127.0.0.1" }] }],
  ["an IPv6 host address", { portMappings: [{ containerPort: 1, hostIp: "::1" }] }],
  ["ports of the host's network", hostNetwork({ portMappings: [web(80, 80), web(81, 0)] })],
  ["a network sysctl", sysctl("net.ipv4.ip_unprivileged_port_start")],
  ["a sysctl with slashes", sysctl("net/ipv4/conf/eth0.1/forwarding")],
  ["an IPC sysctl", sysctl("kernel.shm_rmid_forced")],
  ["a message queue sysctl", sysctl("fs.mqueue.msg_max")],
] as Array<[string, Init]>)("%s is fine", (_, changes) => {
  expect(() => validate(changes)).not.toThrow();
});

test.each([
  ["config.metadata.name", { metadata: { ...metadata, name: "" } }],
  ["config.metadata.namespace", { metadata: { ...metadata, namespace: "" } }],
  ["config.metadata.uid", { metadata: { ...metadata, uid: "" } }],
  ["config.metadata", { metadata: undefined }],
  ["config.windows", { windows: {} }],
  ["config.hostname", { hostname: "-a" }],
  ["config.hostname", { hostname: "a-" }],
  ["config.hostname", { hostname: "a b" }],
  ["config.hostname", { hostname: "a".repeat(65) }],
  ["config.log_directory", { logDirectory: "a" }],
  ["config.port_mappings[0].container_port", { portMappings: [{ containerPort: 0 }] }],
  ["config.port_mappings[0].container_port", { portMappings: [{ containerPort: 65536 }] }],
  ["config.port_mappings[0].host_port", { portMappings: [{ containerPort: 1, hostPort: 65536 }] }],
  ["config.port_mappings[0].protocol", { portMappings: [{ containerPort: 1, protocol: 7 }] }],
  [
    "config.port_mappings[0].host_ip",
    { portMappings: [{ containerPort: 1, hostIp: "localhost" }] },
  ],
  ["config.dns_config.servers", { dnsConfig: { servers: ["1.1.1.1\nnameserver 6.6.6.6"] } }],
  ["config.dns_config.searches", { dnsConfig: { searches: [""] } }],
  ["config.dns_config.options", { dnsConfig: { options: ["a b"] } }],
  ["config.dns_config: resolv.conf", { dnsConfig: { searches: Array(300).fill("a".repeat(250)) } }],
  ['config.linux.sysctls["vm.swappiness"]', sysctl("vm.swappiness")],
  ['config.linux.sysctls["kernel.hostname"]', sysctl("kernel.hostname")],
  ['config.linux.sysctls["kernel.domainname"]', sysctl("kernel.domainname")],
  ['config.linux.sysctls["net/../vm/x"]', sysctl("net/../vm/x")],
  ['config.linux.sysctls["net.ipv4.x"]', sysctl("net.ipv4.x", { network: 2 })],
  ['config.linux.sysctls["kernel.shmmax"]', sysctl("kernel.shmmax", { ipc: 2 })],
  [
    "namespace_options.pid",
    { linux: { securityContext: { namespaceOptions: { pid: 3, targetId: "x" } } } },
  ],
  [
    'namespace_options.target_id: "x"',
    { linux: { securityContext: { namespaceOptions: { pid: 1, targetId: "x" } } } },
  ],
  [
    "config.port_mappings[1].host_port: 8080 is not container_port 80",
    hostNetwork({ portMappings: [web(1, 1), web(80, 8080)] }),
  ],
  [
    'config.annotations["kubernetes.io/egress-bandwidth"]: "1M"',
    hostNetwork({ annotations: { "kubernetes.io/egress-bandwidth": "1M" } }),
  ],
  ["namespace_options.ipc", { linux: { securityContext: { namespaceOptions: { ipc: 1 } } } }],
] as Array<[string, Init]>)("%s is checked and named", (field, changes) => {
  expect(() => validate(changes)).toThrow(field);
});

/** As pkg/kubelet/kuberuntime of 1.34 to 1.37 makes it; a pod with host network has no host name. */
const kubelets = (network: NamespaceMode): Init => ({
  hostname: network === NamespaceMode.NODE ? "" : "web",
  logDirectory: "/var/log/pods/ns_n_u",
  dnsConfig: { servers: ["10.96.0.10"], searches: ["ns.svc.cluster.local"], options: ["ndots:5"] },
  portMappings: [web(80, network === NamespaceMode.NODE ? 80 : 8080)],
  labels: { "io.kubernetes.pod.name": "n" },
  annotations: { "kubernetes.io/config.source": "file", "io.kubernetes.cri-o.umask": "0027" },
  linux: {
    cgroupParent: "/kubepods/burstable/podu",
    securityContext: {
      namespaceOptions: { network, pid: 1, usernsOptions: { mode: NamespaceMode.NODE } },
      runAsUser: { value: 1000n },
      runAsGroup: { value: 1000n },
      supplementalGroups: [2000n],
      supplementalGroupsPolicy: 1,
      selinuxOptions: { level: "s0:c1,c2" },
      seccomp: { profileType: 0 },
    },
    overhead: {},
    resources: { cpuPeriod: 100_000n, cpuShares: 2n, memoryLimitInBytes: 1n << 30n },
  },
});

test("what a kubelet sends of ordinary pods is refused nowhere, though not all of it has an effect", () => {
  expect(() => validate(kubelets(NamespaceMode.POD))).not.toThrow();
  expect(() => validate(kubelets(NamespaceMode.NODE))).not.toThrow();
});

test("a pod shares what its options say, and has its own of the rest", () => {
  const modes = (namespaceOptions: object) =>
    namespaceModes(
      PodSandboxConfig.fromPartial({ linux: { securityContext: { namespaceOptions } } }),
    );
  const own = { hostNetwork: false, hostIpc: false, sharedPid: true };
  expect(namespaceModes(PodSandboxConfig.fromPartial({}))).toEqual(own);
  expect(modes({ network: 2, ipc: 2, pid: 2 })).toEqual({
    hostNetwork: true,
    hostIpc: true,
    sharedPid: false,
  });
  expect(modes({ pid: 1 })).toEqual({ ...own, sharedPid: false });
});

test("resolv.conf holds what the pod says, else what the host has", () => {
  const dns = (init: DeepPartial<DNSConfig>) => DNSConfig.fromPartial(init);
  expect(
    resolvConf(
      dns({ servers: ["10.0.0.10", "::1"], searches: ["a.local", "b"], options: ["ndots:5", "x"] }),
    ),
  ).toBe("search a.local b\nnameserver 10.0.0.10\nnameserver ::1\noptions ndots:5 x\n");
  const host = join(tmpdir(), `resolv-${process.pid}`);
  writeFileSync(host, "nameserver 9.9.9.9\n");
  expect(resolvConf(undefined, host)).toBe("nameserver 9.9.9.9\n");
  expect(resolvConf(dns({}), host)).toBe("nameserver 9.9.9.9\n");
  expect(resolvConf(undefined, "/nonexistent")).toBe("");
});

test("a log path stays below the pod's log directory", () => {
  expect(logPathOf("/logs/pod", "c/0.log")).toBe("/logs/pod/c/0.log");
  expect(logPathOf("/logs/pod/", "./c//0.log")).toBe("/logs/pod/c/0.log");
  expect(logPathOf("/logs/pod", "a/../0.log")).toBe("/logs/pod/0.log");
  expect(logPathOf("/logs/pod", "/0.log")).toBe("/logs/pod/0.log");
  expect(logPathOf("/logs", "")).toBe("");
  expect(logPathOf("", "")).toBe("");
  expect(() => logPathOf("", "0.log")).toThrow(
    'log_path: "0.log": the pod sandbox was made without',
  );
  for (const path of ["../x", "a/../../x", "..", "."]) {
    expect(() => logPathOf("/logs/pod", path)).toThrow(`log_path: "${path}"`);
  }
  expect(() => logPathOf("/logs/pod", "../pod2/x")).toThrow("log_path");
  expect(() => logPathOf("logs", "x")).toThrow('log_directory: "logs"');
});

test("a sysctl's name with slashes is the same one with dots, and a dot within a part is kept", () => {
  expect(dottedSysctl("net.ipv4.ip_forward")).toBe("net.ipv4.ip_forward");
  expect(dottedSysctl("net/ipv4/ip_forward")).toBe("net.ipv4.ip_forward");
  expect(dottedSysctl("net/ipv4/conf/eth0.1/forwarding")).toBe("net.ipv4.conf.eth0/1.forwarding");
  expect(dottedSysctl("net.ipv4.conf.eth0/1.forwarding")).toBe("net.ipv4.conf.eth0/1.forwarding");
});
