/** Overlay mounts: read-only layers below one writable directory. */
import { existsSync, rmSync } from "node:fs";
import { relative } from "node:path";
import { codeOf } from "../linux/errno.ts";
import { MountFlag, mount } from "../linux/mount.ts";

export interface ReadOnlyOverlay {
  /** The directory that `lowers` are names in. */
  layersDirectory: string;
  /** Base first, as an image lists its layers. */
  lowers: readonly string[];
  target: string;
}

export interface OverlayMount extends ReadOnlyOverlay {
  upper: string;
  work: string;
}

/**
 * Mounts an overlay. All directories are given to the kernel relative to `layersDirectory`, which is
 * the working directory for the length of the call: short names keep several hundred layers below the
 * 4095 bytes that mount(2) reads, on every kernel (fsopen's "lowerdir+" needs 6.8), and no path holds
 * a character that overlayfs would have to have escaped. The call is synchronous, and nothing in Crib
 * uses relative paths otherwise.
 */
export function mountOverlay({ layersDirectory, lowers, upper, work, target }: OverlayMount): void {
  const options = [
    `lowerdir=${[...lowers].reverse().join(":")}`,
    `upperdir=${relative(layersDirectory, upper)}`,
    `workdir=${relative(layersDirectory, work)}`,
  ];
  // With the inode index a stale upper of a crashed mount is refused as busy.
  if (existsSync("/sys/module/overlay/parameters/index")) options.push("index=off");
  // The mark of an earlier volatile mount would refuse another one.
  rmSync(`${work}/work/incompat`, { recursive: true, force: true });
  from(layersDirectory, () => mountVolatile(target, options));
}

/** Mounts at least two layers alone, without devices and setuid programs; see `mountOverlay`. */
export function mountReadOnlyOverlay({ layersDirectory, lowers, target }: ReadOnlyOverlay): void {
  const flags = MountFlag.readOnly | MountFlag.noSuid | MountFlag.noDev;
  const data = `lowerdir=${[...lowers].reverse().join(":")}`;
  from(layersDirectory, () => mount({ source: "overlay", target, type: "overlay", flags, data }));
}

function from(directory: string, body: () => void): void {
  const before = workingDirectory();
  process.chdir(directory);
  try {
    body();
  } finally {
    process.chdir(before);
  }
}

/**
 * Volatile: else unmounting writes out the whole file system below first, and everybody waits. What
 * containers write is not used after a power cut: the kubelet makes them anew. Linux 5.10 and newer.
 */
function mountVolatile(target: string, options: readonly string[]): void {
  const overlay = { source: "overlay", target, type: "overlay" };
  try {
    mount({ ...overlay, data: [...options, "volatile"].join(",") });
  } catch (error) {
    if (codeOf(error) !== "EINVAL") throw error;
    mount({ ...overlay, data: options.join(",") });
  }
}

/** Where the process is; "/" when that directory was deleted. */
function workingDirectory(): string {
  try {
    return process.cwd();
  } catch {
    return "/";
  }
}
