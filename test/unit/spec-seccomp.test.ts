import { afterAll, describe, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { OciSeccomp } from "../../src/container/spec/oci.ts";
import { buildSeccomp, type SeccompRequest } from "../../src/container/spec/seccomp.ts";
import { defaultSeccomp } from "../../src/container/spec/seccomp-default.ts";
import { parseSeccompProfile } from "../../src/container/spec/seccomp-profile.ts";
import {
  SecurityProfile_ProfileType as ProfileType,
  SecurityProfile,
} from "../../src/gen/runtime/v1/security_pb.ts";

const directory = mkdtempSync(join(tmpdir(), "crib-spec-seccomp-"));
afterAll(() => rmSync(directory, { recursive: true }));
const file = join(directory, "profile.json");
writeFileSync(file, JSON.stringify({ defaultAction: "SCMP_ACT_LOG" }));

const fifo = join(directory, "fifo");
execFileSync("mkfifo", [fifo]);
const huge = join(directory, "huge.json");
writeFileSync(huge, "");
truncateSync(huge, 2 ** 30);
const deep = join(directory, "deep.json");
writeFileSync(deep, "[".repeat(200_000));

function build(
  profile: { profileType?: ProfileType; localhostRef?: string } | undefined,
  change: Partial<SeccompRequest> = {},
) {
  return buildSeccomp({
    profile: profile && SecurityProfile.fromPartial(profile),
    deprecated: "",
    privileged: false,
    capabilities: [],
    apparmor: false,
    defaultProfile: "",
    unset: "Unconfined",
    supported: true,
    ...change,
  });
}

const Localhost = { profileType: ProfileType.Localhost, localhostRef: file };
const unset = { unset: "RuntimeDefault" } as const;
const Unconfined = { profileType: ProfileType.Unconfined };

describe("which profile", () => {
  test.each<[string, Parameters<typeof build>, string | undefined]>([
    ["none given: unconfined", [undefined], undefined],
    ["none given, and the node has one for that", [undefined, unset], "SCMP_ACT_ERRNO"],
    ["unconfined, where the node has one for none", [Unconfined, unset], undefined],
    ["none given, privileged", [undefined, { ...unset, privileged: true }], undefined],
    ["an empty profile: the default", [{}], "SCMP_ACT_ERRNO"],
    ["unconfined", [Unconfined], undefined],
    ["a file of the node", [Localhost], "SCMP_ACT_LOG"],
    ["the node's default file", [{}, { defaultProfile: file }], "SCMP_ACT_LOG"],
    ["privileged: unconfined", [Localhost, { privileged: true }], undefined],
    ["the old field: default", [undefined, { deprecated: "runtime/default" }], "SCMP_ACT_ERRNO"],
    [
      "the old field: docker's name",
      [undefined, { deprecated: "docker/default" }],
      "SCMP_ACT_ERRNO",
    ],
    ["the old field: unconfined", [undefined, { deprecated: "unconfined" }], undefined],
    ["the old field: a file", [undefined, { deprecated: `localhost/${file}` }], "SCMP_ACT_LOG"],
    ["both fields that agree", [Localhost, { deprecated: `localhost/${file}` }], "SCMP_ACT_LOG"],
    ["unconfined on a runtime without seccomp", [Unconfined, { supported: false }], undefined],
  ])("%s", async (_, given, defaultAction) => {
    expect((await build(...given)).seccomp?.defaultAction).toBe(defaultAction as never);
  });

  test("the new field counts where both are set, and the old one must be understood all the same", async () => {
    const both = await build(Unconfined, { deprecated: "runtime/default" });
    expect(both.seccomp).toBeUndefined();
    await expect(build(Unconfined, { deprecated: "no" })).rejects.toThrow("seccomp_profile_path");
  });

  test("a profile that privileged makes pointless is warned about, the default is not", async () => {
    expect((await build(Localhost, { privileged: true })).warnings).toHaveLength(1);
    expect((await build({}, { privileged: true })).warnings).toEqual([]);
  });

  test.each<[string, Parameters<typeof build>, string, string]>([
    [
      "Localhost without a file",
      [{ profileType: ProfileType.Localhost }],
      "InvalidArgument",
      "localhost_ref",
    ],
    [
      "a relative file",
      [{ ...Localhost, localhostRef: "p.json" }],
      "InvalidArgument",
      '"p.json": must be an absolute',
    ],
    [
      "a missing file",
      [{ ...Localhost, localhostRef: "/no/such" }],
      "InvalidArgument",
      "/no/such: no such file on this node",
    ],
    [
      "a directory",
      [{ ...Localhost, localhostRef: directory }],
      "InvalidArgument",
      `localhost_ref: ${directory}: EINVAL: not a regular file`,
    ],
    ["a FIFO", [{ ...Localhost, localhostRef: fifo }], "InvalidArgument", "not a regular file"],
    ["a device", [{ ...Localhost, localhostRef: "/dev/zero" }], "InvalidArgument", "not a regular"],
    [
      "a FIFO of the node's",
      [{}, { defaultProfile: fifo }],
      "InvalidArgument",
      "not a regular file",
    ],
    [
      "a file of a gigabyte",
      [{ ...Localhost, localhostRef: huge }],
      "InvalidArgument",
      "larger than 262144 bytes",
    ],
    [
      "a file of brackets",
      [{ ...Localhost, localhostRef: deep }],
      "InvalidArgument",
      `localhost_ref: ${deep}: `,
    ],
    ["an unknown type", [{ profileType: 9 as ProfileType }], "InvalidArgument", "profile_type: 9"],
    [
      "a runtime without seccomp",
      [{}, { supported: false }],
      "FailedPrecondition",
      "without seccomp",
    ],
  ])("%s is refused", async (_, given, code, message) => {
    const error: unknown = await build(...given).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code });
    expect(String(error)).toContain(message);
  });
});

/** The actions for a call without regard to its arguments: "ALLOW", "ERRNO 1", with "?" if it depends. */
function actions(profile: OciSeccomp, name: string): string[] {
  return profile.syscalls
    .filter(({ names }) => names.includes(name))
    .map(({ action, errnoRet, args }) =>
      [action.replace("SCMP_ACT_", ""), errnoRet, args && "?"].filter(Boolean).join(" "),
    );
}

/** What becomes of a call with these arguments: 0 is allowed, else the errno. */
function outcome(profile: OciSeccomp, name: string, ...args: bigint[]): number {
  const rule = profile.syscalls.find(
    ({ names, args: conditions = [] }) =>
      names.includes(name) &&
      conditions.every(
        ({ index, value, valueTwo = 0 }) =>
          ((args[index] ?? 0n) & BigInt(Number(value))) === BigInt(Number(valueTwo)),
      ),
  );
  if (rule?.action === "SCMP_ACT_ALLOW") return 0;
  return rule?.errnoRet ?? profile.defaultErrnoRet ?? 1;
}

describe("the built-in profile", () => {
  const builtIn = (...capabilities: string[]) =>
    defaultSeccomp({ capabilities, arch: "x64", apparmor: false });
  const plain = builtIn();

  test.each([
    ["openat", ["ALLOW"]],
    ["ptrace", ["ALLOW"]],
    ["mount", ["ERRNO 1"]],
    ["unshare", ["ERRNO 1"]],
    ["keyctl", ["ERRNO 1"]],
    ["bpf", ["ERRNO 1"]],
    ["arch_prctl", ["ALLOW"]],
    ["clone3", []],
    ["io_uring_setup", []],
    ["set_tls", []],
  ])("without capabilities has for %s: %p", (name, expected) => {
    expect(actions(plain, name)).toEqual(expected);
  });

  test("has ENOSYS for all that it does not name", () => {
    expect(plain).toMatchObject({ defaultAction: "SCMP_ACT_ERRNO", defaultErrnoRet: 38 });
  });

  test.each([
    ["CAP_SYS_ADMIN", ["mount", "unshare", "setns", "clone", "clone3", "bpf"]],
    ["CAP_SYS_MODULE", ["init_module", "finit_module"]],
    ["CAP_SYS_TIME", ["settimeofday", "clock_settime"]],
    ["CAP_SYS_CHROOT", ["chroot"]],
    ["CAP_BPF", ["bpf"]],
    ["CAP_SYSLOG", ["syslog"]],
  ])("%s opens what it stands for", (capability, names) => {
    const profile = builtIn(capability);
    for (const name of names) expect(actions(profile, name)).toEqual(["ALLOW"]);
    for (const name of ["kexec_load", "keyctl"])
      expect(actions(profile, name)).toEqual(["ERRNO 1"]);
  });

  const [EPERM, EINVAL, ENOSYS] = [1, 22, 38];
  const withAudit = builtIn("CAP_AUDIT_WRITE");

  test.each([0n, 1n, 0x8000_0000n, 0xffff_ffffn])(
    "allows sockets of all families but two, whatever is above 32 bits (%p)",
    (above) => {
      for (let family = 0; family < 70; family += 1) {
        const refused = family === 38 || family === 40;
        const expected = refused ? EPERM : family > 45 ? ENOSYS : 0;
        const argument = BigInt(family) | (above << 32n);
        for (const call of ["socket", "socketpair"]) {
          expect([family, outcome(plain, call, argument, 1n, 0n)]).toEqual([family, expected]);
        }
      }
    },
  );

  test("says to who may not write to the audit that there is none; other protocols of netlink are open", () => {
    for (const above of [0n, 1n << 32n]) {
      for (let protocol = 0n; protocol < 32n; protocol += 1n) {
        const args = [16n | above, 3n, protocol | above];
        const expected = protocol === 9n ? EINVAL : 0;
        expect([protocol, outcome(plain, "socket", ...args)]).toEqual([protocol, expected]);
        expect([protocol, outcome(withAudit, "socket", ...args)]).toEqual([protocol, 0]);
      }
    }
  });

  test("leaves a 32 bit program its sockets where AppArmor refuses their families", () => {
    const confined = defaultSeccomp({ capabilities: [], arch: "x64", apparmor: true });
    expect(actions(plain, "socketcall")).toEqual(["ERRNO 1"]);
    expect(actions(confined, "socketcall")).toEqual(["ALLOW"]);
  });

  test.each([[[]], [["CAP_SYS_ADMIN"]], [["CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG"]]])(
    "with %p decides each call once, but by its arguments",
    (capabilities) => {
      const unconditional = builtIn(...capabilities)
        .syscalls.filter(({ args }) => args === undefined)
        .flatMap(({ names }) => names);
      expect(new Set(unconditional).size).toBe(unconditional.length);
    },
  );

  test("has the calls and the 32 bit companions of its architecture", () => {
    expect(plain.architectures).toEqual(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    const arm = defaultSeccomp({ capabilities: [], arch: "arm64", apparmor: false });
    expect(arm.architectures).toEqual(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]);
    expect(actions(arm, "set_tls")).toEqual(["ALLOW"]);
    expect(actions(arm, "arch_prctl")).toEqual([]);
  });
});

const context = { capabilities: ["CAP_SYS_ADMIN"], arch: "x64", kernel: "6.1.0-13-amd64" };
const parse = (profile: unknown) => parseSeccompProfile(JSON.stringify(profile), context);

describe("a profile of the node", () => {
  test("in the OCI's form passes as it is", () => {
    const profile = {
      defaultAction: "SCMP_ACT_ERRNO",
      defaultErrnoRet: 1,
      architectures: ["SCMP_ARCH_X86_64"],
      flags: ["SECCOMP_FILTER_FLAG_LOG"],
      syscalls: [
        {
          names: ["clone"],
          action: "SCMP_ACT_ALLOW",
          args: [{ index: 0, value: 2114060288, valueTwo: 0, op: "SCMP_CMP_MASKED_EQ" }],
        },
        { names: ["chmod"], action: "SCMP_ACT_ERRNO", errnoRet: 13 },
      ],
    };
    expect(parse(profile)).toEqual(profile);
  });

  test("keeps all digits of a 64 bit mask", () => {
    const text =
      '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["x"],"action":"SCMP_ACT_KILL",' +
      '"args":[{"index":1,"value":18446744073709551615,"op":"SCMP_CMP_EQ"}]}]}';
    expect(JSON.stringify(parseSeccompProfile(text, context))).toContain(":18446744073709551615,");
  });

  test("in Docker's form takes the architecture's part and decides the conditions", () => {
    const rule = (name: string, conditions: object) => ({
      name,
      action: "SCMP_ACT_ALLOW",
      ...conditions,
    });
    const { architectures, syscalls } = parse({
      defaultAction: "SCMP_ACT_ERRNO",
      defaultErrno: "ENOSYS",
      archMap: [
        { architecture: "SCMP_ARCH_AARCH64", subArchitectures: ["SCMP_ARCH_ARM"] },
        { architecture: "SCMP_ARCH_X86_64", subArchitectures: ["SCMP_ARCH_X86"] },
      ],
      syscalls: [
        rule("with-cap", { includes: { caps: ["CAP_SYS_ADMIN"] } }),
        rule("without-cap", { includes: { caps: ["CAP_SYS_ADMIN", "CAP_BPF"] } }),
        rule("not-excluded", { excludes: { caps: ["CAP_BPF"] }, args: [], comment: "x" }),
        rule("excluded", { excludes: { caps: ["CAP_BPF", "CAP_SYS_ADMIN"] } }),
        rule("this-arch", { includes: { arches: ["amd64", "x32"] } }),
        rule("other-arch", { includes: { arches: ["s390"] } }),
        rule("excluded-arch", { excludes: { arches: ["amd64"] } }),
        rule("old-kernel", { includes: { minKernel: "4.8" } }),
        rule("new-kernel", { includes: { minKernel: "6.2" } }),
      ],
    });
    expect(architectures).toEqual(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]);
    expect(syscalls.flatMap(({ names }) => names)).toEqual([
      "with-cap",
      "not-excluded",
      "this-arch",
      "old-kernel",
    ]);
  });

  test.each<[string, unknown, string]>([
    ["an unknown key", { defaultAction: "SCMP_ACT_ALLOW", syscall: [] }, "syscall"],
    ["no default action", { syscalls: [] }, "defaultAction"],
    ["an unknown action", { defaultAction: "ALLOW" }, "defaultAction"],
    [
      "a rule without a call",
      { defaultAction: "SCMP_ACT_ALLOW", syscalls: [{ names: [], action: "SCMP_ACT_LOG" }] },
      "names no system call",
    ],
    [
      "a negative argument",
      {
        defaultAction: "SCMP_ACT_ALLOW",
        syscalls: [
          {
            names: ["a"],
            action: "SCMP_ACT_LOG",
            args: [{ index: 0, value: -1, op: "SCMP_CMP_EQ" }],
          },
        ],
      },
      "syscalls.0.args.0.value",
    ],
    [
      "more rules than a filter holds",
      {
        defaultAction: "SCMP_ACT_ALLOW",
        syscalls: Array.from({ length: 1025 }, () => ({ name: "a", action: "SCMP_ACT_LOG" })),
      },
      "syscalls: 1025 entries, at most 1024",
    ],
    ["a notification to nobody", { defaultAction: "SCMP_ACT_NOTIFY" }, "needs listenerPath"],
    [
      "two lists of architectures",
      {
        defaultAction: "SCMP_ACT_ALLOW",
        architectures: [],
        archMap: [{ architecture: "SCMP_ARCH_X86_64" }],
      },
      "only one may be",
    ],
  ])("with %s is refused", (_, profile, message) => {
    expect(() => parse(profile)).toThrow(message);
  });

  test("that is no JSON is refused with its path", async () => {
    const broken = join(directory, "broken.json");
    writeFileSync(broken, "{");
    const attempt = build({ profileType: ProfileType.Localhost, localhostRef: broken });
    await expect(attempt).rejects.toThrow(`localhost_ref: ${broken}: `);
  });
});
