import { createHash } from "node:crypto";
import { accessSync, constants, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { CribError, messageOf } from "../error.ts";

/**
 * Writes a program to `<directory>/bin/<name>-<hash>`, mode 0700, in the first of `directories`
 * from which programs may be run, and returns its path. An intact copy is used as it is; running
 * copies of other versions are not touched.
 */
export function unpackProgram(name: string, bytes: Uint8Array, directories: string[]): string {
  const hash = createHash("sha256").update(bytes).digest("hex").slice(0, 16);
  const reasons: string[] = [];
  for (const directory of directories) {
    const path = join(directory, "bin", `${name}-${hash}`);
    try {
      if (!holds(path, bytes)) replace(path, bytes);
      /* EACCES also when the file system is mounted noexec. */
      accessSync(path, constants.X_OK);
      return path;
    } catch (error) {
      reasons.push(messageOf(error));
    }
  }
  throw new CribError("Internal", `no place to run ${name} from: ${reasons.join("; ")}`);
}

function replace(path: string, bytes: Uint8Array): void {
  const temporary = `${path}.${process.pid}.tmp`;
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(temporary, bytes, { mode: 0o700 });
  renameSync(temporary, path);
}

function holds(path: string, bytes: Uint8Array): boolean {
  try {
    return readFileSync(path).equals(bytes);
  } catch {
    return false;
  }
}
