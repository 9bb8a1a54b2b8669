/** mount(2) and umount2(2). Paths are strings or raw bytes; every failure is a `SyscallError`. */
import { statSync } from "node:fs";
import { dirname } from "node:path";
import { codeOf } from "./errno.ts";
import { check, cstring, libc } from "./libc.ts";

const c = libc({
  mount: { args: ["ptr", "ptr", "ptr", "u64", "ptr"], returns: "i32" },
  umount2: { args: ["ptr", "i32"], returns: "i32" },
});

/** Flags of mount(2); combine them with `|`. */
export const MountFlag = {
  readOnly: 1,
  noSuid: 2,
  noDev: 4,
  noExec: 8,
  remount: 32,
  bind: 4096,
  move: 8192,
  recursive: 16384,
  unbindable: 1 << 17,
  private: 1 << 18,
  slave: 1 << 19,
  shared: 1 << 20,
  relatime: 1 << 21,
} as const;

const MNT_DETACH = 2;
const UMOUNT_NOFOLLOW = 8;

export interface MountOptions {
  /** A device, a directory to bind, or any name for a virtual file system. */
  source: string;
  target: string;
  /** File system type; absent for bind, move and propagation changes. */
  type?: string;
  /** `MountFlag`s joined with `|`. */
  flags?: number;
  /** The file system's own options, comma separated; mount(2) cuts them at 4096 bytes. */
  data?: string;
}

const DATA_LIMIT_BYTES = 4095;

/** mount(2). Throws a `SyscallError`, or a `RangeError` when `data` would be cut by the kernel. */
export function mount({ source, target, type, flags = 0, data }: MountOptions): void {
  const options = data === undefined ? null : cstring(data);
  if (options !== null && options.length - 1 > DATA_LIMIT_BYTES) {
    throw new RangeError(
      `mount ${target}: ${options.length - 1} bytes of options, the limit is 4095`,
    );
  }
  check(
    c.mount(
      cstring(source),
      cstring(target),
      type === undefined ? null : cstring(type),
      flags,
      options,
    ),
    "mount",
    target,
  );
}

/**
 * umount2(2), never following a symlink at `target`. A target that is no mount point or does not
 * exist is no error. `detach` is MNT_DETACH, the lazy form. The daemon has `Unmount` (src/monitor) for this:
 * it would wait here with all that it serves.
 */
export function unmount(target: string, { detach = false } = {}): void {
  try {
    check(
      c.umount2(cstring(target), UMOUNT_NOFOLLOW | (detach ? MNT_DETACH : 0)),
      "umount2",
      target,
    );
  } catch (error) {
    if (codeOf(error) !== "EINVAL" && codeOf(error) !== "ENOENT") throw error;
  }
}

/**
 * Whether another file system is mounted on `directory`; false when it does not exist. Compares
 * device numbers, so a bind mount of the same file system is not seen.
 */
export function isMountPoint(directory: string): boolean {
  const here = statSync(directory, { throwIfNoEntry: false });
  const parent = statSync(dirname(directory), { throwIfNoEntry: false });
  return here !== undefined && parent !== undefined && here.dev !== parent.dev;
}
