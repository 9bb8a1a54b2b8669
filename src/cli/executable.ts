import { resolve } from "node:path";

/** argv that runs Crib again: the compiled executable itself, or Bun with the main file. */
export function executable(): string[] {
  // In a compiled executable modules live in Bun's virtual file system.
  if (import.meta.path.startsWith("/$bunfs/")) return ["/proc/self/exe"];
  return [process.execPath, resolve(import.meta.dir, "../main.ts")];
}
