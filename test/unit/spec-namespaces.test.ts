import { expect, test } from "bun:test";
import { buildNamespaces } from "../../src/container/spec/namespaces.ts";
import type { DeepPartial } from "../../src/gen/runtime/v1/common_pb.ts";
import { PodSandboxConfig } from "../../src/gen/runtime/v1/pod_sandbox_config_pb.ts";
import { NamespaceMode, NamespaceOption } from "../../src/gen/runtime/v1/security_pb.ts";

const { POD, CONTAINER, NODE, TARGET } = NamespaceMode;
type Options = DeepPartial<NamespaceOption>;
const pins = { net: "/pins/net", ipc: "/pins/ipc", uts: "/pins/uts" };

interface Case {
  options?: Options;
  pod?: Options;
  namespaces?: { net?: string; ipc?: string; uts?: string; pid?: string };
  target?: string;
  privateCgroup?: boolean;
}

function build({ options, pod, namespaces = pins, target, privateCgroup = false }: Case): string[] {
  const built = buildNamespaces({
    pod: {
      config: PodSandboxConfig.fromPartial({
        linux: { securityContext: { namespaceOptions: pod } },
      }),
      namespaces,
    },
    options: options && NamespaceOption.fromPartial(options),
    targetPidNamespace: target,
    privateCgroup,
  });
  return built.map(({ type, path }) => (path === undefined ? type : `${type}=${path}`));
}

const shared = ["mount", "network=/pins/net", "ipc=/pins/ipc", "uts=/pins/uts"];

test.each<[string, Case, string[]]>([
  [
    "a kubelet's container",
    { options: { pid: CONTAINER }, pod: { pid: CONTAINER } },
    [...shared, "pid"],
  ],
  [
    "a shared PID namespace",
    { namespaces: { ...pins, pid: "/pins/pid" } },
    [...shared, "pid=/pins/pid"],
  ],
  ["the host's PID namespace", { options: { pid: NODE }, pod: { pid: NODE } }, shared],
  [
    "POD of a pod in the host's PID namespace",
    { options: { pid: POD }, pod: { pid: NODE } },
    shared,
  ],
  [
    "another container's",
    { options: { pid: TARGET, targetId: "abc" }, target: "/proc/7/ns/pid" },
    [...shared, "pid=/proc/7/ns/pid"],
  ],
  [
    "all of the host's",
    {
      options: { pid: NODE, network: NODE, ipc: NODE },
      pod: { pid: NODE, network: NODE, ipc: NODE },
      namespaces: {},
    },
    ["mount"],
  ],
  [
    "a cgroup namespace of its own",
    { options: { pid: CONTAINER }, privateCgroup: true },
    [...shared, "pid", "cgroup"],
  ],
  [
    "the host's user namespace",
    { options: { pid: CONTAINER, usernsOptions: { mode: NODE } } },
    [...shared, "pid"],
  ],
])("%s", (_, given, expected) => {
  expect(build(given)).toEqual(expected);
});

test.each<[string, Case, string]>([
  [
    "host network in a pod with its own",
    { options: { pid: CONTAINER, network: NODE } },
    'network: "NODE"',
  ],
  ["host IPC in a pod with its own", { options: { pid: CONTAINER, ipc: NODE } }, 'ipc: "NODE"'],
  [
    "host PIDs in a pod without",
    { options: { pid: NODE }, pod: { pid: CONTAINER } },
    'pid: "NODE"',
  ],
  [
    "shared PIDs in a pod without",
    { options: { pid: POD }, pod: { pid: CONTAINER } },
    'pid: "POD"',
  ],
  ["a network of the container's", { options: { network: CONTAINER } }, 'network: "CONTAINER"'],
  ["another container's network", { options: { network: TARGET } }, 'network: "TARGET"'],
  [
    "a target that does not run",
    { options: { pid: TARGET, targetId: "abc" } },
    'target_id: "abc": is not a running',
  ],
  [
    "TARGET without an id",
    { options: { pid: TARGET }, target: "/x" },
    "pid TARGET needs a container id",
  ],
  ["an unknown mode", { options: { pid: 9 as NamespaceMode } }, "pid: 9: is not a namespace mode"],
  ["an unknown network mode", { options: { network: 9 as NamespaceMode } }, "network: 9: is not"],
])("%s is refused", (_, given, message) => {
  expect(() => build(given)).toThrow(message);
});
