import { readFileSync } from "node:fs";
import asset from "../../dist/native/crib-monitor" with { type: "file" };
import { unpackProgram } from "./unpack.ts";

const unpacked = new Map<string, string>();

/**
 * The path of the embedded helper. An asset inside an executable can be read but not run, so it is
 * unpacked to `<stateDir>/bin`, or where /run is mounted noexec to the next of `fallbacks` (the root
 * directory). Once per process and state directory.
 */
export function monitorBinary(stateDir: string, ...fallbacks: string[]): string {
  const known = unpacked.get(stateDir);
  if (known !== undefined) return known;
  const path = unpackProgram("crib-monitor", readFileSync(asset), [stateDir, ...fallbacks]);
  unpacked.set(stateDir, path);
  return path;
}
