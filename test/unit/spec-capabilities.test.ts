import { describe, expect, test } from "bun:test";
import { buildCapabilities } from "../../src/container/spec/capabilities.ts";
import { Capability } from "../../src/gen/runtime/v1/security_pb.ts";
import { capabilityNames } from "../../src/linux/host.ts";

interface Asked {
  add?: string[];
  drop?: string[];
  ambient?: string[];
  privileged?: boolean;
  uid?: number;
  available?: readonly string[];
}

function build({ add, drop, ambient, privileged = false, uid = 0, available }: Asked) {
  return buildCapabilities({
    requested: Capability.fromPartial({
      addCapabilities: add,
      dropCapabilities: drop,
      addAmbientCapabilities: ambient,
    }),
    privileged,
    uid,
    defaults: ["CHOWN", "KILL"],
    available: available ?? capabilityNames,
  });
}

const allCount = 41;

test.each<[string, Asked, string[]]>([
  ["nothing asked: the defaults", {}, ["CHOWN", "KILL"]],
  [
    "add, with and without CAP_, in any case",
    { add: ["cap_net_raw", "Sys_Time"] },
    ["CHOWN", "KILL", "NET_RAW", "SYS_TIME"],
  ],
  ["drop one", { drop: ["CAP_KILL"] }, ["CHOWN"]],
  ["drop wins over add", { add: ["NET_RAW"], drop: ["NET_RAW"] }, ["CHOWN", "KILL"]],
  ["drop ALL, then add", { add: ["NET_RAW"], drop: ["all"] }, ["NET_RAW"]],
  ["drop ALL wins over add ALL", { add: ["ALL"], drop: ["ALL"] }, []],
])("%s", (_, asked, names) => {
  const { capabilities, warnings } = build(asked);
  const expected = names.map((name) => `CAP_${name}`);
  expect(capabilities.bounding).toEqual(expected);
  expect(capabilities.effective).toEqual(expected);
  expect(capabilities.permitted).toEqual(expected);
  expect(capabilities.inheritable).toEqual([]);
  expect(capabilities.ambient).toEqual([]);
  expect(warnings).toEqual([]);
});

test("add ALL is all that the daemon has, less what is dropped, and no reason to warn", () => {
  const available = capabilityNames.filter((name) => name !== "SYS_RESOURCE");
  const { capabilities, warnings } = build({ add: ["ALL"], drop: ["SYS_ADMIN"], available });
  expect(capabilities.bounding).toHaveLength(allCount - 2);
  expect(capabilities.bounding).not.toContain("CAP_SYS_ADMIN");
  expect(warnings).toEqual([]);
});

test("privileged has everything, and warns that a drop has no effect", () => {
  const { capabilities, warnings } = build({ privileged: true, drop: ["KILL"] });
  expect(capabilities.bounding).toHaveLength(allCount);
  expect(warnings).toEqual([expect.stringContaining("drop_capabilities has no effect")]);
});

test("a default that the daemon does not have is left out, with a warning that names it", () => {
  const { capabilities, warnings } = build({ available: ["CHOWN"] });
  expect(capabilities.bounding).toEqual(["CAP_CHOWN"]);
  expect(warnings).toEqual([expect.stringMatching(/^CAP_KILL: not given/)]);
});

test.each<[string, Asked]>([
  ["add_capabilities", { add: ["SYS_RESOURCE"] }],
  ["add_ambient_capabilities", { ambient: ["SYS_RESOURCE"] }],
])("%s that the daemon does not have to give are refused by name", (field, asked) => {
  const available = ["CHOWN", "KILL"];
  const refused = `${field}: "SYS_RESOURCE": Crib itself does not have this capability`;
  expect(() => build({ ...asked, available })).toThrow(refused);
});

test("what is dropped too, or comes with privileges, need not be there to be given", () => {
  const available = ["CHOWN", "KILL"];
  const dropped = build({ add: ["BPF"], drop: ["BPF"], available });
  expect(dropped.capabilities.bounding).toEqual(["CAP_CHOWN", "CAP_KILL"]);
  const privileged = build({ add: ["BPF"], privileged: true, available });
  expect(privileged.capabilities.bounding).toEqual(["CAP_CHOWN", "CAP_KILL"]);
});

describe("a user other than root", () => {
  test("has a bounding set, and nothing permitted", () => {
    const { capabilities } = build({ uid: 1000 });
    expect(capabilities.bounding).toEqual(["CAP_CHOWN", "CAP_KILL"]);
    expect(capabilities.effective).toEqual([]);
    expect(capabilities.permitted).toEqual([]);
  });

  test("has an ambient capability in all five sets", () => {
    const { capabilities } = build({ uid: 1000, drop: ["ALL"], ambient: ["NET_BIND_SERVICE"] });
    for (const set of Object.values(capabilities)) expect(set).toEqual(["CAP_NET_BIND_SERVICE"]);
  });

  test("has its whole set ambient when ALL are", () => {
    expect(build({ uid: 1, ambient: ["ALL"] }).capabilities.ambient).toEqual([
      "CAP_CHOWN",
      "CAP_KILL",
    ]);
  });
});

test.each<[string, Asked, string]>([
  [
    "an unknown name",
    { add: ["NET_RAWW"] },
    'add_capabilities: "NET_RAWW": is not a Linux capability',
  ],
  ["an empty name", { drop: [""] }, 'drop_capabilities: "": is not'],
  ["ambient and dropped", { ambient: ["KILL"], drop: ["KILL"] }, "is also in drop_capabilities"],
])("%s is refused", (_, asked, message) => {
  expect(() => build(asked)).toThrow(message);
});
