/** Disks made and read without mounting them: mke2fs and debugfs of e2fsprogs. */
import { mkdirSync } from "node:fs";
import { output } from "../conformance/programs.ts";

/** Makes an ext4 image of `size` ("6G"; sparse) that holds the content of `directory`. */
export function makeDisk(directory: string, image: string, size: string): void {
  output(["/sbin/mke2fs", "-q", "-t", "ext4", "-d", directory, image, size]);
}

/** Copies a directory of an image into `parent`, also from a disk that was never unmounted. */
export function readDirectory(image: string, path: string, parent: string): void {
  mkdirSync(parent, { recursive: true });
  // Its journal is played first; the exit status tells of repairs.
  Bun.spawnSync(["/sbin/e2fsck", "-fy", image], { stdio: ["ignore", "ignore", "ignore"] });
  output(["/sbin/debugfs", "-R", `rdump ${path} ${parent}`, image]);
}
