import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { profileText } from "../../src/container/apparmor-default.ts";
import { type AppArmorRequest, buildAppArmor, checkSELinux } from "../../src/container/spec/lsm.ts";
import {
  SecurityProfile_ProfileType as ProfileType,
  SELinuxOption,
  SecurityProfile,
} from "../../src/gen/runtime/v1/security_pb.ts";
import { isAppArmorProfileLoaded } from "../../src/linux/apparmor.ts";
import { hugepageSizeName, readHost } from "../../src/linux/host.ts";

const directory = mkdtempSync(join(tmpdir(), "crib-spec-lsm-"));
afterAll(() => rmSync(directory, { recursive: true }));

const on = { host: { apparmor: true } };
const localhost = SecurityProfile.fromPartial({
  profileType: ProfileType.Localhost,
  localhostRef: "loaded",
});
const prefixed = SecurityProfile.fromPartial({
  profileType: ProfileType.Localhost,
  localhostRef: "localhost/loaded",
});
const runtimeDefault = SecurityProfile.fromPartial({});
const asked = { ...on, profile: runtimeDefault };
const noParser = () => Promise.resolve(undefined);
const unconfined = SecurityProfile.fromPartial({ profileType: ProfileType.Unconfined });

function build(change: Partial<AppArmorRequest>): Promise<string | undefined> {
  return buildAppArmor({
    profile: undefined,
    deprecated: "",
    field: "linux.security_context",
    privileged: false,
    host: { apparmor: false },
    runtime: { apparmor: true },
    isLoaded: (name) => Promise.resolve(name === "loaded"),
    loadDefault: () => Promise.resolve("crib-default"),
    ...change,
  });
}

describe("AppArmor", () => {
  test.each<[string, Partial<AppArmorRequest>, string | undefined]>([
    ["nothing given where it is off", {}, undefined],
    ["nothing given", on, "crib-default"],
    ["nothing given, privileged", { ...on, privileged: true }, undefined],
    ["nothing given, without a parser", { ...on, loadDefault: noParser }, undefined],
    ["nothing given, a runtime without it", { ...on, runtime: { apparmor: false } }, undefined],
    ["the runtime's default", { ...on, profile: runtimeDefault }, "crib-default"],
    ["the runtime's default, privileged", { ...asked, privileged: true }, undefined],
    ["unconfined", { ...on, profile: unconfined }, undefined],
    ["unconfined where it is off", { profile: unconfined }, undefined],
    ["a loaded profile", { ...on, profile: localhost }, "loaded"],
    ["a loaded profile, privileged too", { ...on, profile: localhost, privileged: true }, "loaded"],
    ["a loaded profile in the old form", { ...on, profile: prefixed }, "loaded"],
    ["both fields", { ...on, profile: localhost, deprecated: "localhost/other" }, "loaded"],
    ["the old field", { ...on, deprecated: "localhost/loaded" }, "loaded"],
  ])("%s", async (_, change, profile) => {
    expect(await build(change)).toBe(profile as never);
  });

  test.each<[string, Partial<AppArmorRequest>, string, string]>([
    [
      "a profile where it is off",
      { profile: localhost },
      "FailedPrecondition",
      '"loaded": AppArmor is off on this host',
    ],
    [
      "the runtime's default where it is off",
      { profile: runtimeDefault },
      "FailedPrecondition",
      '"RuntimeDefault": AppArmor is off on this host',
    ],
    [
      "the runtime's default where it is off, in the old field",
      { deprecated: "runtime/default" },
      "FailedPrecondition",
      '"RuntimeDefault": AppArmor is off on this host',
    ],
    [
      "a profile that is not loaded",
      { ...on, deprecated: "localhost/other" },
      "FailedPrecondition",
      '"other": this AppArmor profile is not loaded',
    ],
    [
      "a runtime without it",
      { ...on, profile: localhost, runtime: { apparmor: false } },
      "FailedPrecondition",
      "no AppArmor support",
    ],
    [
      "the runtime's default without a parser",
      { ...asked, loadDefault: noParser },
      "FailedPrecondition",
      '"RuntimeDefault": this host has no apparmor_parser to load it: install the package apparmor',
    ],
    [
      "the runtime's default that cannot be loaded",
      { ...asked, loadDefault: () => Promise.reject(new Error("parser: line 3")) },
      "FailedPrecondition",
      "Crib's AppArmor profile cannot be loaded: parser: line 3",
    ],
    [
      "the runtime's default with a runtime without it",
      { ...asked, runtime: { apparmor: false } },
      "FailedPrecondition",
      "no AppArmor support",
    ],
    ...["unconfined", "a\nexec b", "a\0b", "x".repeat(1025)].map(
      (name): [string, Partial<AppArmorRequest>, string, string] => [
        `the name ${JSON.stringify(name.slice(0, 20))}`,
        { ...on, deprecated: `localhost/${name}`, isLoaded: () => Promise.resolve(true) },
        "InvalidArgument",
        "is not the name of an AppArmor profile",
      ],
    ),
    [
      "an old field of other form",
      { ...on, deprecated: "loaded" },
      "InvalidArgument",
      'apparmor_profile: "loaded"',
    ],
  ])("%s is refused", async (_, change, code, message) => {
    const error: unknown = await build(change).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code });
    expect(String(error)).toContain(message);
  });

  test("its default profile refuses the families of sockets that seccomp cannot see in socketcall", () => {
    for (const abi of [true, false]) {
      expect(profileText("unconfined", abi)).toMatch(/ deny network alg,\n +deny network vsock,\n/);
    }
  });

  test("profiles are found in the kernel's list by their whole name", async () => {
    const list = join(directory, "profiles");
    writeFileSync(list, "docker-default (enforce)\n/usr/bin/man (complain)\nmy app (enforce)\n");
    expect(await isAppArmorProfileLoaded("docker-default", list)).toBe(true);
    expect(await isAppArmorProfileLoaded("/usr/bin/man", list)).toBe(true);
    expect(await isAppArmorProfileLoaded("my app", list)).toBe(true);
    expect(await isAppArmorProfileLoaded("docker", list)).toBe(false);
    expect(await isAppArmorProfileLoaded("docker", join(directory, "missing"))).toBe(true);
  });
});

test("SELinux labels: an error where it is on, a warning where it is off, nothing when empty", () => {
  const label = SELinuxOption.fromPartial({ type: "spc_t", level: "s0" });
  expect(() => checkSELinux(label, "f", { selinux: true })).toThrow('f: "spc_t:s0"');
  expect(checkSELinux(label, "f", { selinux: false })).toEqual([
    "f: spc_t:s0 has no effect: SELinux is off on this host",
  ]);
  expect(checkSELinux(SELinuxOption.fromPartial({}), "f", { selinux: true })).toEqual([]);
});

describe("the host", () => {
  test.each([
    [65_536, "64KB"],
    [2_097_152, "2MB"],
    [33_554_432, "32MB"],
    [1_073_741_824, "1GB"],
  ])("calls pages of %d bytes %s, as the hugetlb controller's files", (bytes, name) => {
    expect(hugepageSizeName(bytes)).toBe(name);
  });

  test("without cgroup controllers limits no pages and counts no swap", () => {
    const facts = readHost(new Map());
    expect(facts).toMatchObject({ hugepageSizes: [], swapAccounting: false });
    expect(facts.oomScoreAdjMin).toBeGreaterThanOrEqual(-1000);
  });

  test("counts swap where the cgroup files for it are", () => {
    writeFileSync(join(directory, "memory.memsw.limit_in_bytes"), "1\n");
    expect(readHost(new Map([["memory", directory]])).swapAccounting).toBe(true);
  });
});
