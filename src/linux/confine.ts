/**
 * The second half of a confined process's start; the first is src/native/confine.c, which runs it in mounts
 * of its own, with few capabilities.
 */
import { check, cstring, libc } from "./libc.ts";
import { unmount } from "./mount.ts";
import { allowOnly, type Permission } from "./seccomp.ts";

const c = libc({
  syscall: { args: ["i64", "ptr", "ptr"], returns: "i64" },
  prctl: { args: ["i32", "u64", "u64", "u64", "u64"], returns: "i32" },
});

const SYS_PIVOT_ROOT = process.arch === "arm64" ? 41 : 155;
const PR_GET_NO_NEW_PRIVS = 39;

/**
 * Makes `root`, which the helper has mounted, this process's "/", leaves every mount of the host behind,
 * and gives up all system calls but those of `permission` (`allowOnly`). Descriptors that are open stay.
 * What the process will need of modules and libraries must be loaded: no file can be opened by the way.
 *
 * @throws Error when it was not started by the helper: these would be the host's mounts.
 */
export function confine(root: string, permission: Permission): void {
  if (c.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) !== 1) throw new Error("only crib serve runs this");
  process.chdir(root);
  const here = cstring(".");
  // The old root comes to lie on the new one, and goes.
  check(c.syscall(SYS_PIVOT_ROOT, here, here), "pivot_root", root);
  unmount(".", { detach: true });
  process.chdir("/");
  allowOnly(permission);
}
