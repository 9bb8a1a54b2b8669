import { closeSync, constants, mkdirSync, readlinkSync, realpathSync } from "node:fs";
import { posix } from "node:path";
import { messageOf } from "../../error.ts";
import { openInRoot } from "../../linux/file.ts";
import { SyscallError } from "../../linux/libc.ts";
import { invalid } from "./refuse.ts";

const O_PATH = 0o10000000;
/** As the kernel counts before ELOOP. */
const MAX_LINKS = 40;

/**
 * Image-defined volumes: each is a plain directory of the container's own root file system, made when
 * the image lacks it (CRI-O's default, image_volumes = "mkdir"). What the image has there stays, it
 * counts as the container's disk usage, and it goes with the container.
 *
 * @returns the volumes that were made or already there, normalised.
 */
export function makeImageVolumes(
  rootfs: string,
  volumes: readonly string[] | null | undefined,
  mounted: ReadonlySet<string>,
): string[] {
  const paths = (volumes ?? []).map((path) => posix.resolve("/", path));
  for (const path of paths) {
    if (mounted.has(path)) continue;
    try {
      makeDirectories(rootfs, path);
    } catch (cause) {
      throw invalid("image Volumes", path, messageOf(cause));
    }
  }
  return paths;
}

/** mkdir -p inside `rootfs`: the image's symlinks are followed as the container would follow them. */
function makeDirectories(rootfs: string, path: string, links = 0): void {
  let parent = "/";
  for (const name of path.split("/").filter((part) => part !== "")) {
    const child = posix.join(parent, name);
    if (!exists(rootfs, child)) makeDirectory(rootfs, parent, name, links);
    parent = child;
  }
}

function makeDirectory(rootfs: string, parent: string, name: string, links: number): void {
  const directory = openInRoot(rootfs, parent, O_PATH | constants.O_DIRECTORY);
  try {
    const handle = `/proc/self/fd/${directory}`;
    try {
      mkdirSync(`${handle}/${name}`, 0o755);
    } catch (error) {
      if (codeOf(error) !== "EEXIST" || links >= MAX_LINKS) throw error;
      // A symlink to what is not there yet, as /var/run -> /run in some images: make that.
      const inside = posix.relative(realpathSync(rootfs), readlinkSync(handle));
      const target = posix.resolve("/", inside, readlinkSync(`${handle}/${name}`));
      makeDirectories(rootfs, target, links + 1);
    }
  } finally {
    closeSync(directory);
  }
}

function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : "";
}

function exists(rootfs: string, path: string): boolean {
  try {
    closeSync(openInRoot(rootfs, path, O_PATH | constants.O_DIRECTORY));
    return true;
  } catch (error) {
    if (error instanceof SyscallError && error.code === "ENOENT") return false;
    throw error;
  }
}
