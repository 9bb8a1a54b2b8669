import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runCommand } from "../../src/linux/command.ts";
import { isMountPoint, MountFlag, mount } from "../../src/linux/mount.ts";
import { HELPER, unmount } from "../fixtures/image-store.ts";

/** As glibc and musl call it. */
const TOO_LONG = /file ?name too long/i;

let base: string;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "crib-unmount-"));
});
afterEach(async () => {
  const paths = readdirSync(base).map((name) => join(base, name));
  await unmount(paths, { lazy: true });
  rmSync(base, { recursive: true });
});

/** Mounts so many file systems there, on top of each other. */
function mounted(name: string, count = 1): string {
  const target = join(base, name);
  mkdirSync(target);
  for (let n = 0; n < count; n += 1) mount({ source: "none", target, type: "tmpfs" });
  return target;
}

/** A pinned namespace, as pods have. */
function pinned(name: string): string {
  const target = join(base, name);
  writeFileSync(target, "");
  mount({ source: "/proc/self/ns/uts", target, flags: MountFlag.bind });
  return target;
}

test.each([false, true])(
  "all that is mounted goes, and nothing there is fine (lazy: %p)",
  async (lazy) => {
    const paths = [mounted("twice", 2), pinned("pin"), join(base, "nowhere"), base];
    await unmount(paths, { lazy });
    expect(paths.filter(isMountPoint)).toEqual([]);
    await unmount(paths, { lazy });
  },
);

test.each([false, true])("one that is busy goes with its last user (lazy: %p)", async (lazy) => {
  const busy = mounted("busy");
  const holder = Bun.spawn(["sleep", "60"], { cwd: busy });
  try {
    await unmount([busy], { lazy });
    expect(isMountPoint(busy)).toBe(false);
    expect(readdirSync(`/proc/${holder.pid}/cwd`)).toEqual([]);
  } finally {
    holder.kill();
    await holder.exited;
  }
});

test("what cannot be unmounted is told, and the others go all the same", async () => {
  const other = mounted("other");
  const long = join(base, "x/".repeat(3_000));
  const argv = [HELPER, "unmount", long, other];
  const { exitCode, stderr } = await runCommand(argv, { deadlineMs: 60_000 });
  expect(exitCode).toBe(1);
  expect(stderr).toStartWith(`crib-monitor: unmount ${long}: `);
  expect(stderr).toMatch(TOO_LONG);
  expect(isMountPoint(other)).toBe(false);
  await expect(unmount([long])).rejects.toThrow(TOO_LONG);
});

test("a symbolic link is not followed", async () => {
  const target = mounted("target");
  const link = join(base, "link");
  await runCommand(["ln", "-s", target, link], { deadlineMs: 60_000 });
  await runCommand([HELPER, "unmount", link], { deadlineMs: 60_000 });
  expect(isMountPoint(target)).toBe(true);
});
