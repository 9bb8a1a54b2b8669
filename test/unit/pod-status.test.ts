import { expect, test } from "bun:test";
import type { DeepPartial } from "../../src/gen/runtime/v1/common_pb.ts";
import { PodSandboxConfig } from "../../src/gen/runtime/v1/pod_sandbox_config_pb.ts";
import { NamespaceMode, type NamespaceOption } from "../../src/gen/runtime/v1/security_pb.ts";
import { toPodSandboxStatus } from "../../src/pod/status.ts";
import { keptPodConfig } from "../../src/state/kept-config.ts";
import type { PodRecord } from "../../src/state/records.ts";

const metadata = { name: "web", namespace: "default", uid: "u", attempt: 2 };

function status(namespaceOptions: DeepPartial<NamespaceOption> | undefined, ips: string[] = []) {
  const config = PodSandboxConfig.fromPartial({
    metadata,
    linux: { securityContext: { namespaceOptions } },
  });
  const pod: PodRecord = {
    id: "p1",
    config: keptPodConfig(config),
    handler: "runc",
    createdAtNs: 1n,
    namespaces: {},
    cgroup: "/p",
    phase: "ready",
    ips,
    monitorPid: 1,
    unclaimed: false,
  };
  return toPodSandboxStatus(pod, config);
}

test("a pod's status has its metadata as they were given", () => {
  expect(status({}).metadata).toEqual(metadata);
});

test("a pod's status has its first address as the primary one, the others beside it", () => {
  expect(status({}, ["10.0.0.2", "fd00::2", "10.1.0.2"]).network).toEqual({
    ip: "10.0.0.2",
    additionalIps: [{ ip: "fd00::2" }, { ip: "10.1.0.2" }],
  });
  expect(status({}).network).toEqual({ ip: "", additionalIps: [] });
});

test("a pod's status tells the namespaces as they were asked for, the host's users too", () => {
  const { NODE, CONTAINER, POD } = NamespaceMode;
  const asked = { network: NODE, pid: CONTAINER, ipc: NODE, usernsOptions: { mode: NODE } };
  expect(status(asked).linux?.namespaces?.options).toMatchObject(asked);
  const nothing = { network: POD, pid: POD, ipc: POD, targetId: "", usernsOptions: undefined };
  expect(status(undefined).linux?.namespaces?.options).toEqual(nothing);
});
