import { describe, expect, test } from "bun:test";
import { capabilityArgs, cniArgs, type PodAttachment } from "../../src/network/attachment.ts";
import { requestConfig } from "../../src/network/chain.ts";
import { atLeast, parseConfList } from "../../src/network/conflist.ts";
import { parseResult } from "../../src/network/result.ts";

const pod: PodAttachment = {
  id: "p1",
  namespace: "default",
  name: "web",
  uid: "u-1",
  netns: "/run/netns/p1",
  portMappings: [],
  annotations: {},
  cgroupPath: "",
  dns: { servers: [], searches: [], options: [] },
};

function refusal(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  throw new Error("it was accepted");
}

describe("configuration", () => {
  test("a list keeps the keys that only its plugins know", () => {
    const list = parseConfList(
      '{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","keyA":["x"],"ipam":{"type":"i","y":1}}]}',
    );
    expect(list.plugins).toEqual([{ type: "bridge", keyA: ["x"], ipam: { type: "i", y: 1 } }]);
  });

  test("a single plugin's file becomes a list of one", () => {
    const list = parseConfList('{"cniVersion":"0.3.1","name":"n","type":"bridge","bridge":"b0"}');
    expect(list).toMatchObject({ name: "n", versions: ["0.3.1"], loadOnlyInlinedPlugins: true });
    expect(list.plugins).toMatchObject([{ type: "bridge", bridge: "b0" }]);
  });

  test("the versions of cniVersion and cniVersions are offered newest first, unknown ones left out", () => {
    const list = parseConfList(
      '{"cniVersion":"0.4.0","cniVersions":["9.0.0","0.3.1","1.1.0","1.0.0"],"name":"n","plugins":[]}',
    );
    expect(list.versions).toEqual(["1.1.0", "1.0.0", "0.4.0", "0.3.1"]);
  });

  const bad: Array<[string, string]> = [
    ["", "is not JSON"],
    ["{", "is not JSON"],
    ["[]", "name: is missing"],
    ["3", "Invalid type: Expected Object"],
    ['{"cniVersion":"1.0.0","plugins":[]}', "name: is missing"],
    ['{"cniVersion":"1.0.0","name":"../x","plugins":[]}', "name: must be letters"],
    ['{"name":"n","plugins":[]}', "cniVersion: is missing"],
    ['{"cniVersion":"0.2.0","name":"n","plugins":[]}', "cniVersion: 0.2.0 is none of 0.3.0,"],
    ['{"cniVersion":1,"name":"n","plugins":[]}', "cniVersion: "],
    ['{"cniVersion":"1.0.0","name":"n","plugins":{}}', "plugins: "],
    ['{"cniVersion":"1.0.0","name":"n","plugins":[{}]}', "plugins.0.type: is missing"],
    ['{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a/b"}]}', "plugins.0.type: must be"],
    ['{"cniVersion":"1.0.0","name":"n","plugins":[{"type":".."}]}', "plugins.0.type: must be"],
    ['{"cniVersion":"1.0.0","name":"n","disableGC":"maybe","plugins":[]}', "disableGC: "],
  ];
  for (const [text, message] of bad) {
    test(`refused: ${text}`, () => {
      expect(refusal(() => parseConfList(text))).toStartWith(message);
    });
  }

  test("versions compare as numbers", () => {
    expect(atLeast("0.10.0", "0.4.0")).toBe(true);
    expect(atLeast("0.3.1", "0.4.0")).toBe(false);
    expect(atLeast("1.1.0", "1.1.0")).toBe(true);
  });
});

describe("request configuration", () => {
  const network = { name: "n", cniVersion: "1.0.0", disableGC: false, plugins: [] };

  test("a plugin gets the capability arguments that it declares, and not the declaration", () => {
    const plugin = { type: "p", capabilities: { a: true, b: false }, own: 1 };
    const args = { a: 1, b: 2, c: 3 };
    expect(requestConfig(network, plugin, args, { ips: [] })).toEqual({
      type: "p",
      own: 1,
      name: "n",
      cniVersion: "1.0.0",
      runtimeConfig: { a: 1 },
      prevResult: { ips: [] },
    });
    expect(requestConfig(network, { type: "p" }, args)).toEqual({
      type: "p",
      name: "n",
      cniVersion: "1.0.0",
    });
  });
});

describe("what plugins are told about a pod", () => {
  test("CNI_ARGS name the pod", () => {
    expect(cniArgs(pod)).toBe(
      "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;" +
        "K8S_POD_INFRA_CONTAINER_ID=p1;K8S_POD_UID=u-1",
    );
  });

  test("a name that would add another argument is refused", () => {
    expect(refusal(() => cniArgs({ ...pod, name: "x;IP=10.0.0.1" }))).toContain(
      'config.metadata.name: "x;IP=10.0.0.1" must not hold',
    );
  });

  test("port mappings without a host port are left out; an empty host address too", () => {
    const portMappings: PodAttachment["portMappings"] = [
      { protocol: "tcp", containerPort: 80, hostPort: 0, hostIp: "" },
      { protocol: "udp", containerPort: 53, hostPort: 5353, hostIp: "" },
      { protocol: "sctp", containerPort: 9, hostPort: 9, hostIp: "::1" },
    ];
    expect(capabilityArgs({ ...pod, portMappings }).portMappings).toEqual([
      { hostPort: 5353, containerPort: 53, protocol: "udp" },
      { hostPort: 9, containerPort: 9, protocol: "sctp", hostIP: "::1" },
    ]);
    expect(capabilityArgs(pod)).not.toHaveProperty("portMappings");
  });

  test("DNS, cgroup and annotations are offered as capabilities", () => {
    const args = capabilityArgs({
      ...pod,
      annotations: { a: "b" },
      cgroupPath: "/kubepods/x",
      dns: { servers: ["1.1.1.1"], searches: [], options: [] },
    });
    expect(args).toEqual({
      "io.kubernetes.cri.pod-annotations": { a: "b" },
      cgroupPath: "/kubepods/x",
      dns: { servers: ["1.1.1.1"], searches: [], options: [] },
    });
  });

  const rates: Array<[string, number]> = [
    ["1000", 1000],
    ["10M", 10_000_000],
    ["1.5G", 1_500_000_000],
    ["8Mi", 8_388_608],
    ["512k", 512_000],
    ["1P", 1e15],
    ["1e6", 1e6],
    ["+2.5E3", 2500],
    [".5M", 500_000],
  ];
  for (const [text, rate] of rates) {
    test(`a bandwidth of ${text} is ${rate} bits per second`, () => {
      const annotations = { "kubernetes.io/egress-bandwidth": text };
      const bandwidth = capabilityArgs({ ...pod, annotations }).bandwidth;
      expect(bandwidth).toEqual({ egressRate: rate, egressBurst: expect.any(Number) });
    });
  }

  for (const text of [
    "",
    "fast",
    "-1M",
    "999",
    "2P",
    "10m",
    "1e3x",
    "1e999",
    "5e",
    "ki",
    "10 M",
    "1Kb",
  ]) {
    test(`a bandwidth of "${text}" is refused with its annotation`, () => {
      const annotations = { "kubernetes.io/ingress-bandwidth": text };
      const message = refusal(() => capabilityArgs({ ...pod, annotations }));
      expect(message).toContain(`config.annotations["kubernetes.io/ingress-bandwidth"]: "${text}"`);
    });
  }
});

describe("results", () => {
  test("addresses come without prefix, in the plugins' order, the host's own left out", () => {
    const raw = {
      cniVersion: "1.0.0",
      interfaces: [
        { name: "cni0", mac: "aa" },
        { name: "eth0", mac: "bb", sandbox: "/n", mtu: 9 },
      ],
      ips: [
        { address: "fd00::2/64", interface: 1 },
        { address: "10.0.0.1/24", interface: 0 },
        { address: "10.0.0.2/24", interface: 1, gateway: "10.0.0.1" },
        { address: "127.0.0.1/8" },
        { address: "10.0.0.3/32" },
      ],
    };
    expect(parseResult(raw)).toEqual({
      ips: ["fd00::2", "10.0.0.2", "10.0.0.3"],
      interfaces: [
        { name: "cni0", mac: "aa", sandbox: "" },
        { name: "eth0", mac: "bb", sandbox: "/n", mtu: 9 },
      ],
      raw,
    });
  });

  const bad: Array<[unknown, string]> = [
    [undefined, "ips: there is no address"],
    [{}, "ips: there is no address"],
    [{ ips: null }, "ips: there is no address"],
    [{ ips: [{ address: "10.0.0.1" }] }, "ips.0.address: must be an address in CIDR"],
    [{ ips: [{ address: "10.0.0.1/33" }] }, "ips.0.address: must be an address in CIDR"],
    [
      { ips: [{ address: "10.0.0.1/24", interface: 3 }] },
      "ips: 10.0.0.1/24 belongs to interface 3",
    ],
    [{ ips: "10.0.0.1/24" }, "ips: "],
    [{ interfaces: [{}] }, "interfaces.0.name: is missing"],
    ["text", "Invalid type: Expected Object"],
  ];
  for (const [raw, message] of bad) {
    test(`refused: ${JSON.stringify(raw)}`, () => {
      expect(refusal(() => parseResult(raw))).toStartWith(message);
    });
  }
});
