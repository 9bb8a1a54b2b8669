/** Notices a power cut: the daemon's end leaves no mark, the machine's end without it does. */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ifThere } from "../config/if-there.ts";

const BOOT_ID = "/proc/sys/kernel/random/boot_id";
const markOf = (root: string) => join(root, "session");

/**
 * Marks that a daemon works on this root. Returns whether the last one that did was cut off together
 * with its machine; a daemon that was only killed has lost nothing that was written.
 */
export function beginSession(root: string, bootId = readFileSync(BOOT_ID, "utf8").trim()): boolean {
  const before = ifThere(() => readFileSync(markOf(root), "utf8").trim());
  writeFileSync(markOf(root), `${bootId}\n`, { mode: 0o600 });
  return before !== undefined && before !== bootId;
}

/** The daemon ends in order. */
export function endSession(root: string): void {
  rmSync(markOf(root), { force: true });
}
