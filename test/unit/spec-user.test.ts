import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ResolvedUser, resolveUser } from "../../src/container/spec/user.ts";
import { findGroups, findUser, MAX_ID } from "../../src/container/spec/user-file.ts";
import { LinuxContainerSecurityContext } from "../../src/gen/runtime/v1/container_config_pb.ts";
import { SupplementalGroupsPolicy } from "../../src/gen/runtime/v1/security_pb.ts";
import { FUZZ_LIMIT_MS, FUZZ_MS, randomOf } from "../fixtures/fuzz.ts";
import type { SecurityInit } from "../fixtures/spec-input.ts";

const top = mkdtempSync(join(tmpdir(), "crib-spec-user-"));
let rootfs: string;
let count = 0;

afterAll(() => rmSync(top, { recursive: true }));

beforeEach(() => {
  rootfs = join(top, String(++count));
  mkdirSync(join(rootfs, "etc"), { recursive: true });
  writeFileSync(
    join(rootfs, "etc/passwd"),
    "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken:x:y:0::/:\n\napp:x:1000:1001::/home/app:\r\n" +
      "second:x:1000:5::/second:\n77:x:78:79::/seven:\n",
  );
  writeFileSync(
    join(rootfs, "etc/group"),
    "root:x:0:root\nwheel:x:10:root, app\nshared:x:50000:other,app\nempty:x:60:\n",
  );
});

function resolve(security: SecurityInit = {}, imageUser = "") {
  return resolveUser({
    rootfs,
    security: LinuxContainerSecurityContext.fromPartial(security),
    imageUser,
  });
}

const id = (value: number | bigint) => ({ value: BigInt(value) });
const Strict = SupplementalGroupsPolicy.Strict;

test.each<[string, SecurityInit, string, ResolvedUser]>([
  ["nothing: root", {}, "", { uid: 0, gid: 0, supplementalGroups: [0, 10], home: "/root" }],
  [
    "the image's user",
    {},
    "app",
    { uid: 1000, gid: 1001, supplementalGroups: [10, 1001, 50000], home: "/home/app" },
  ],
  [
    "the image's uid",
    {},
    "1000",
    { uid: 1000, gid: 1001, supplementalGroups: [10, 1001, 50000], home: "/home/app" },
  ],
  [
    "the image's user:group",
    {},
    "app:empty",
    { uid: 1000, gid: 60, supplementalGroups: [10, 60, 50000], home: "/home/app" },
  ],
  ["the image's uid:gid", {}, "5:6", { uid: 5, gid: 6, supplementalGroups: [6], home: "/" }],
  [
    "the image's :group",
    {},
    ":empty",
    { uid: 0, gid: 60, supplementalGroups: [0, 10, 60], home: "/root" },
  ],
  [
    "run_as_user over the image's",
    { runAsUser: id(4) },
    "app:empty",
    { uid: 4, gid: 0, supplementalGroups: [0], home: "/" },
  ],
  [
    "run_as_user that passwd knows",
    { runAsUser: id(1000) },
    "",
    { uid: 1000, gid: 1001, supplementalGroups: [10, 1001, 50000], home: "/home/app" },
  ],
  [
    "run_as_username and run_as_group",
    { runAsUsername: "app", runAsGroup: id(7) },
    "",
    { uid: 1000, gid: 7, supplementalGroups: [7, 10, 50000], home: "/home/app" },
  ],
  [
    "supplemental groups, merged",
    { runAsUsername: "app", supplementalGroups: [3n, 10n] },
    "",
    { uid: 1000, gid: 1001, supplementalGroups: [3, 10, 1001, 50000], home: "/home/app" },
  ],
  [
    "supplemental groups, strict",
    { runAsUsername: "app", supplementalGroups: [3n], supplementalGroupsPolicy: Strict },
    "",
    { uid: 1000, gid: 1001, supplementalGroups: [3, 1001], home: "/home/app" },
  ],
  [
    "digits are an id, not a name",
    { runAsUsername: "77" },
    "",
    { uid: 77, gid: 0, supplementalGroups: [0], home: "/" },
  ],
  [
    "the largest id",
    { runAsUser: id(0xfffffffe) },
    "",
    { uid: 0xfffffffe, gid: 0, supplementalGroups: [0], home: "/" },
  ],
])("%s", async (_, security, imageUser, expected) => {
  expect(await resolve(security, imageUser)).toEqual(expected);
});

test.each<[string, SecurityInit, string, string]>([
  ["a group without a user", { runAsGroup: id(1) }, "", "run_as_group: 1: needs run_as_user"],
  ["a group without a user, also with the image's", { runAsGroup: id(1) }, "app", "run_as_group"],
  [
    "uid and name together",
    { runAsUser: id(1), runAsUsername: "app" },
    "",
    'run_as_username: "app"',
  ],
  ["a negative uid", { runAsUser: id(-1) }, "", "run_as_user: -1: must be 0 to 4294967294"],
  ["the uid that means unchanged", { runAsUser: id(0xffffffff) }, "", "run_as_user: 4294967295"],
  ["a negative group", { supplementalGroups: [0n, -2n] }, "", "supplemental_groups[1]: -2"],
  [
    "an unknown name",
    { runAsUsername: "nobody" },
    "",
    '"nobody": is not in the image\'s /etc/passwd',
  ],
  ["an unknown user of the image", {}, "nobody", 'image User: "nobody"'],
  ["an unknown group of the image", {}, "app:nogroup", "is not in the image's /etc/group"],
  ["three parts", {}, "a:b:c", 'is not "user" or "user:group"'],
  [
    "an unknown policy",
    { supplementalGroupsPolicy: 5 as SupplementalGroupsPolicy },
    "",
    "policy: 5",
  ],
])("%s is refused", async (_, security, imageUser, message) => {
  await expect(resolve(security, imageUser)).rejects.toThrow(message);
});

describe("the image's files", () => {
  test("may be missing: ids still work", async () => {
    rmSync(join(rootfs, "etc"), { recursive: true });
    expect(await resolve({ runAsUser: id(5) })).toMatchObject({
      uid: 5,
      gid: 0,
      supplementalGroups: [0],
    });
  });

  test("are read through links of the image, never from the host", async () => {
    const outside = join(top, "outside");
    writeFileSync(outside, "evil:x:666:666::/:\n");
    rmSync(join(rootfs, "etc/passwd"));
    symlinkSync(outside, join(rootfs, "etc/passwd"));
    await expect(resolve({ runAsUsername: "evil" })).rejects.toThrow('"evil": is not in the image');
    mkdirSync(join(rootfs, top), { recursive: true });
    writeFileSync(join(rootfs, outside), "good:x:7:8::/:\n");
    expect(await resolve({ runAsUsername: "good" })).toMatchObject({ uid: 7, gid: 8 });
  });

  test("that are something else are refused and not waited for", async () => {
    rmSync(join(rootfs, "etc/passwd"));
    execFileSync("mkfifo", [join(rootfs, "etc/passwd")]);
    await expect(resolve()).rejects.toThrow("image file /etc/passwd");
  });

  test("that are endless are refused", async () => {
    execFileSync("truncate", ["-s", "1G", join(rootfs, "etc/group")]);
    await expect(resolve()).rejects.toThrow("image file /etc/group");
  });

  test("that are large are searched in pieces: others have their turn, and little memory is taken", async () => {
    const lines = (line: string) => line.repeat(Math.floor((8 * 2 ** 20 - 100) / line.length));
    const last = "app:x:1000:1001::/home/app:";
    writeFileSync(join(rootfs, "etc/passwd"), `${lines("a:x:1:1::/:\n")}${last}`);
    writeFileSync(join(rootfs, "etc/group"), `b:x:7:${lines("a,")}app\nlast:x:8:app`);
    const { user, turns, grownBytes } = await resolveElsewhere("app");
    expect(user.supplementalGroups).toEqual([7, 8, 1001]);
    expect(user.home).toBe("/home/app");
    // 64 KiB at once of twice 8 MiB.
    expect(turns).toBeGreaterThanOrEqual(200);
    expect(grownBytes).toBeLessThan(64 * 2 ** 20);
  }, 60_000);

  test("with a field longer than a piece are read on behind it", async () => {
    writeFileSync(
      join(rootfs, "etc/passwd"),
      `${"x".repeat(200_000)}:x:1:1\napp:x:3:4::/app:/bin/sh`,
    );
    expect(await resolve({ runAsUsername: "app" })).toMatchObject({ uid: 3, gid: 4, home: "/app" });
  });

  test("that put a user into thousands of groups are refused", async () => {
    const groups = Array.from({ length: 5000 }, (_, gid) => `g:x:${gid}:app`);
    writeFileSync(join(rootfs, "etc/group"), groups.join("\n"));
    await expect(resolve({}, "app")).rejects.toThrow("app is in more than 4096 groups");
  });
});

const NAMES = ["app", "a", "", "other", " app "];

/** Lines that are nearly those of passwd(5) or group(5), at the end of what is read at once. */
function randomFile(random: (below: number) => number): string {
  const parts = [...NAMES, "x", "0", "7", "4294967295", "app,other", ",app", "/home", "\r", "\xff"];
  const pick = () => parts[random(parts.length)] ?? "";
  const line = () => Array.from({ length: random(8) }, pick).join(":");
  const lines = Array.from({ length: random(12) }, line).join("\n");
  return `${"#".repeat(random(3) * (65_536 - random(200)))}\n${lines}`;
}

/** As a whole, line by line. */
function fieldsOf(text: string): string[][] {
  const trim = (field: string) => field.replace(/^[\0-\x20]+|[\0-\x20]+$/g, "");
  return text.split("\n").map((line) => line.split(":").map(trim));
}

const idOf = (text = "") =>
  /^\d+$/.test(text) && Number(text) <= MAX_ID ? Number(text) : undefined;

test(
  "user files of any content say in pieces what they say line by line",
  async () => {
    const random = randomOf(77);
    const end = performance.now() + FUZZ_MS;
    let found = 0;
    for (let rounds = 0; rounds < 20 || performance.now() < end; rounds++) {
      const text = randomFile(random);
      const lines = fieldsOf(text).filter(([name = ""]) => name !== "");
      for (const file of ["passwd", "group"])
        writeFileSync(join(rootfs, "etc", file), text, "latin1");
      const user = lines.find(
        ([name, , uid, gid]) =>
          name === "app" && idOf(uid) !== undefined && idOf(gid) !== undefined,
      );
      const said = await findUser(rootfs, "app");
      expect([said?.uid, said?.gid]).toEqual([idOf(user?.[2]), idOf(user?.[3])]);
      const groups = lines.filter(([, , gid]) => idOf(gid) !== undefined);
      const { named, ofMember } = await findGroups(rootfs, { name: "other", member: "app" });
      expect(named).toBe(idOf(groups.find(([name]) => name === "other")?.[2]));
      const members = groups.filter(([, , , list = ""]) => list.split(",").includes("app"));
      expect([...ofMember]).toEqual([...new Set(members.map(([, , gid]) => Number(gid)))]);
      found += members.length + (user === undefined ? 0 : 1);
    }
    expect(found).toBeGreaterThan(0);
  },
  FUZZ_LIMIT_MS,
);

/** In a process of its own: how often others had their turn meanwhile, and how much larger it became. */
async function resolveElsewhere(
  user: string,
): Promise<{ user: ResolvedUser; turns: number; grownBytes: number }> {
  const code = `
    import { resolveUser } from ${JSON.stringify(join(import.meta.dir, "../../src/container/spec/user.ts"))};
    const rss = () => process.resourceUsage().maxRSS * 1024;
    let turns = 0;
    const count = () => { turns++; setImmediate(count); };
    setImmediate(count);
    const before = rss();
    const user = await resolveUser({ rootfs: ${JSON.stringify(rootfs)}, imageUser: ${JSON.stringify(user)} });
    console.log(JSON.stringify({ user, turns, grownBytes: rss() - before }));
    process.exit();`;
  const child = Bun.spawn([process.execPath, "-e", code], { stdout: "pipe" });
  return JSON.parse(await new Response(child.stdout).text());
}
