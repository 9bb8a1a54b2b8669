/** Notices a power cut: the daemon's end leaves no mark, the machine's end without it does. */
import { closeSync, fsyncSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { ifThere } from "../config/if-there.ts";

const BOOT_ID = "/proc/sys/kernel/random/boot_id";
const markOf = (root: string) => join(root, "session");
const thisBoot = () => readFileSync(BOOT_ID, "utf8").trim();

/**
 * Whether the last daemon that worked on this root was cut off together with its machine; one that was
 * only killed has lost nothing that was written. It stays so until `beginSession`.
 */
export function wasCutOff(root: string, bootId = thisBoot()): boolean {
  const before = ifThere(() => readFileSync(markOf(root), "utf8").trim());
  return before !== undefined && before !== bootId;
}

/** Marks, on disk, that a daemon works on this root, and that what was cut off has been seen to. */
export function beginSession(root: string, bootId = thisBoot()): void {
  const file = openSync(markOf(root), "w", 0o600);
  try {
    writeSync(file, `${bootId}\n`);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  const directory = openSync(root, "r");
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

/** The daemon ends in order. */
export function endSession(root: string): void {
  rmSync(markOf(root), { force: true });
}
