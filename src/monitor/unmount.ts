import { CribError } from "../error.ts";
import { runCommand } from "../linux/command.ts";
import { isMountPoint } from "../linux/mount.ts";
import { log } from "../observe/log.ts";

/**
 * Unmounts what is mounted at each path, however often; nothing there is fine. One that is busy is tried
 * again for a second, or with `lazy` not at all: then it goes with its last user.
 *
 * @throws CribError Internal: what umount2(2) says of those that are still there; DeadlineExceeded.
 */
export type Unmount = (paths: readonly string[], options?: { lazy?: boolean }) => Promise<void>;

const DEADLINE_MS = 60_000;

/**
 * By the native helper (src/native/unmount.c): in the daemon everybody would wait for the kernel, for
 * 10 to 800 ms on a busy node.
 */
export function unmountBy(helper: () => Promise<string>): Unmount {
  return async (paths, { lazy = false } = {}) => {
    const mounted = paths.filter(mayBeMounted);
    if (mounted.length === 0) return;
    const argv = [await helper(), "unmount", ...(lazy ? ["lazy"] : []), ...mounted];
    const { exitCode, stderr, timedOut } = await runCommand(argv, { deadlineMs: DEADLINE_MS });
    if (timedOut) throw new CribError("DeadlineExceeded", `unmount ${mounted.join(", ")}`);
    if (exitCode !== 0) throw new CribError("Internal", stderr.trim());
    if (stderr !== "") log().warn({ stderr: stderr.trim() }, "a mount is busy: detached");
  };
}

/** Spares a process where there is nothing to do; a file system that is broken is there. */
function mayBeMounted(path: string): boolean {
  try {
    return isMountPoint(path);
  } catch {
    return true;
  }
}
