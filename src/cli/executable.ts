import { resolve } from "node:path";

/** argv that runs Crib again: the compiled executable itself, or Bun with the main file. */
export function executable(): string[] {
  // In a compiled executable modules live in Bun's virtual file system. Not "self": the native helper, which
  // starts some of the children, has one of its own.
  if (import.meta.path.startsWith("/$bunfs/")) return [`/proc/${process.pid}/exe`];
  return [process.execPath, resolve(import.meta.dir, "../main.ts")];
}
