/** Carries out a plan: everything is written beside its place first, then put in place at once. */
import {
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { CribError, messageOf } from "../../error.ts";
import { codeOf } from "../../linux/errno.ts";
import type { Removal, Step } from "./plan.ts";

const CHUNK_BYTES = 1024 * 1024;

/**
 * Carries out the steps of an installation below `prefix`. A failure before everything is written (a
 * full disk, say) leaves nothing behind.
 *
 * @param executable the file to copy for an "executable" step.
 * @throws CribError Internal naming the path.
 */
export function applyInstall(steps: readonly Step[], prefix: string, executable: string): void {
  const made: string[] = [];
  const staged: Array<{ from: string; to: string }> = [];
  let path = "";
  try {
    for (const step of steps) {
      path = prefix + step.path;
      if (step.action === "unchanged" || step.action === "kept") continue;
      const directory = step.kind === "directory" ? path : dirname(path);
      made.push(...makeDirectory(directory));
      if (step.kind === "directory") {
        chmodSync(path, step.mode);
        continue;
      }
      const from = join(dirname(path), `.${basename(path)}.${process.pid}.new`);
      staged.push({ from, to: path });
      if (step.kind === "file") writeFileSync(from, step.text, { mode: 0o644, flush: true });
      else copyExecutable(executable, from);
    }
    for (const { from, to } of staged) {
      path = to;
      renameSync(from, to);
    }
  } catch (error) {
    for (const { from } of staged) rmSync(from, { force: true });
    for (const directory of made.reverse()) removeEmpty(directory);
    throw new CribError("Internal", `cannot write ${path}: ${messageOf(error)}`, { cause: error });
  }
}

/** Takes away what the plan says; what is gone already is fine. */
export function applyUninstall(removals: readonly Removal[], prefix: string): void {
  for (const { path, kind, action } of removals) {
    if (action === "kept") continue;
    const full = prefix + path;
    if (kind === "directory") removeEmpty(full);
    else rmSync(full, { force: true, recursive: kind === "tree" });
  }
}

/** The directories that had to be made, outermost first. */
function makeDirectory(directory: string): string[] {
  const first = mkdirSync(directory, { recursive: true, mode: 0o755 });
  if (first === undefined) return [];
  const made: string[] = [];
  for (let path = directory; path.length >= first.length; path = dirname(path)) made.unshift(path);
  return made;
}

function copyExecutable(source: string, target: string): void {
  copyFileSync(source, target, constants.COPYFILE_FICLONE);
  chmodSync(target, 0o755);
  const fd = openSync(target, "r");
  fsyncSync(fd);
  closeSync(fd);
}

function removeEmpty(directory: string): void {
  try {
    rmdirSync(directory);
  } catch (error) {
    if (!["ENOENT", "ENOTEMPTY", "EEXIST", "EBUSY"].includes(codeOf(error))) throw error;
  }
}

/** Whether two files hold the same bytes; false when `other` is not there. */
export function sameContent(one: string, other: string): boolean {
  const sizes = [one, other].map((path) => statSync(path, { throwIfNoEntry: false })?.size);
  if (sizes[0] !== sizes[1]) return false;
  const files = [one, other].map((path) => openSync(path, "r"));
  const buffers = files.map(() => Buffer.alloc(CHUNK_BYTES));
  try {
    for (;;) {
      const [a = Buffer.alloc(0), b = Buffer.alloc(0)] = files.map((fd, index) => {
        const buffer = buffers[index] ?? Buffer.alloc(0);
        return buffer.subarray(0, readSync(fd, buffer, 0, buffer.length, null));
      });
      if (!a.equals(b)) return false;
      if (a.length === 0) return true;
    }
  } finally {
    for (const fd of files) closeSync(fd);
  }
}
