import { createHash } from "node:crypto";
import {
  accessSync,
  chmodSync,
  constants,
  mkdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import asset from "../../dist/native/crib-monitor" with { type: "file" };
import { CribError, messageOf } from "../error.ts";

const unpacked = new Map<string, string>();

/**
 * The path of the helper, unpacked from this executable to `<stateDir>/bin/crib-monitor-<hash>`; an
 * asset inside an executable can be read but not run. Where the state directory may not hold
 * programs (/run mounted noexec), the next of `fallbacks` (the root directory) is taken.
 */
export function monitorBinary(stateDir: string, ...fallbacks: string[]): string {
  const known = unpacked.get(stateDir);
  if (known !== undefined) return known;
  const bytes = readFileSync(asset);
  const hash = createHash("sha256").update(bytes).digest("hex").slice(0, 16);
  const reasons: string[] = [];
  for (const directory of [stateDir, ...fallbacks]) {
    const path = join(directory, "bin", `crib-monitor-${hash}`);
    try {
      unpack(path, bytes);
      unpacked.set(stateDir, path);
      return path;
    } catch (error) {
      reasons.push(messageOf(error));
    }
  }
  throw new CribError("Internal", `no place to run the pod monitor from: ${reasons.join("; ")}`);
}

function unpack(path: string, bytes: Uint8Array): void {
  if (!holds(path, bytes)) {
    const temporary = `${path}.${process.pid}.tmp`;
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    writeFileSync(temporary, bytes, { mode: 0o700 });
    chmodSync(temporary, 0o700);
    renameSync(temporary, path);
  }
  /* EACCES also when the file system is mounted noexec. */
  accessSync(path, constants.X_OK);
}

function holds(path: string, bytes: Uint8Array): boolean {
  try {
    return readFileSync(path).equals(bytes);
  } catch {
    return false;
  }
}
