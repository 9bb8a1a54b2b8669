/** Overlay mounts: read-only layers below one writable directory. */
import { existsSync } from "node:fs";
import { relative } from "node:path";
import { mount } from "../linux/mount.ts";

export interface OverlayMount {
  /** The directory that `lowers` are names in. */
  layersDirectory: string;
  /** Base first, as an image lists its layers. */
  lowers: readonly string[];
  upper: string;
  work: string;
  target: string;
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
  const before = workingDirectory();
  process.chdir(layersDirectory);
  try {
    mount({ source: "overlay", target, type: "overlay", data: options.join(",") });
  } finally {
    process.chdir(before);
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
