/** A directory on a file system with a journal: without one, small files are slow for everybody. */
import { execFileSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const DISK_BYTES = 16 * 1024 ** 3;
/** Those that always have a journal, or need none. */
const JOURNALED = new Set(["xfs", "btrfs", "zfs", "bcachefs", "f2fs"]);

/** What /proc/self/mountinfo says of the file system that holds `path`: type and device. */
function fileSystemOf(path: string): { type: string; device: string } {
  const { dev } = statSync(path);
  const number = `${(dev >> 8) & 0xfff}:${(dev & 0xff) | ((dev >> 12) & ~0xff)}`;
  for (const line of readFileSync("/proc/self/mountinfo", "utf8").trim().split("\n")) {
    const [before = "", after = ""] = line.split(" - ");
    const [type = "", source = ""] = after.split(" ");
    if (before.split(" ")[2] === number) return { type, device: source.replace("/dev/", "") };
  }
  return { type: "unknown", device: "" };
}

/** Whether it has a journal; of ext4, whether a journal's thread works for its device. */
export function isJournaled(path: string): boolean {
  const { type, device } = fileSystemOf(path);
  if (JOURNALED.has(type)) return true;
  if (type !== "ext4" && type !== "ext3") return false;
  return readdirSync("/proc/fs/jbd2").some((name) => name.replace(/-\d+$/, "") === device);
}

/**
 * A directory below TMPDIR, where that is journaled; else in an ext4 of its own, on a loop device.
 * `remove` takes all of it away.
 */
export function journaledDirectory(name: string): { path: string; on: string; remove(): void } {
  const own = mkdtempSync(join(tmpdir(), name));
  const removeOwn = () => rmSync(own, { recursive: true, force: true });
  if (isJournaled(own)) return { path: own, on: fileSystemOf(own).type, remove: removeOwn };
  const [disk, path] = [join(own, "disk"), join(own, "mount")];
  try {
    execFileSync("touch", [disk]);
    truncateSync(disk, DISK_BYTES);
    execFileSync("mkfs.ext4", ["-q", "-F", disk]);
    mkdirSync(path);
    execFileSync("mount", ["-o", "loop", disk, path]);
  } catch (error) {
    removeOwn();
    throw error;
  }
  const remove = () => {
    execFileSync("umount", [path]);
    removeOwn();
  };
  if (!isJournaled(path)) {
    remove();
    throw new Error(`${path}: an ext4 of our own has no journal`);
  }
  return { path, on: "ext4 with a journal, on a loop device", remove };
}
