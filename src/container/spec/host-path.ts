import { lstat, mkdir, realpath } from "node:fs/promises";
import { posix } from "node:path";
import { CribError, messageOf } from "../../error.ts";
import { codeOf } from "../../linux/errno.ts";
import { invalid } from "./refuse.ts";

/**
 * The real path of a mount's source, an absolute path: symlinks are followed, a path that does not exist becomes a
 * directory (mode 0755, as CRI-O and containerd do), except below the paths that the node rejects.
 *
 * A path on a hung network file system blocks one thread of the pool: the caller has the deadline.
 */
export async function resolveHostPath(
  path: string,
  field: string,
  reject: readonly string[],
): Promise<string> {
  try {
    return await realpath(path);
  } catch (cause) {
    if (codeOf(cause) !== "ENOENT") throw unusable(path, field, cause);
  }
  const normal = posix.resolve(path);
  if (reject.some((rejected) => posix.resolve(rejected) === normal)) {
    throw invalid(
      field,
      path,
      "does not exist, and container.absent_mount_sources_to_reject has it",
    );
  }
  if (await isSymlink(normal)) throw invalid(field, path, "is a symlink to nothing");
  try {
    await mkdir(normal, { recursive: true, mode: 0o755 });
    return await realpath(normal);
  } catch (cause) {
    throw unusable(path, field, cause);
  }
}

async function isSymlink(path: string): Promise<boolean> {
  try {
    return (await lstat(path)).isSymbolicLink();
  } catch {
    return false;
  }
}

function unusable(path: string, field: string, cause: unknown): CribError {
  const theirs = ["ENOTDIR", "ELOOP", "ENAMETOOLONG", "EEXIST"].includes(codeOf(cause));
  const code = theirs ? "InvalidArgument" : "FailedPrecondition";
  return new CribError(code, `${field}: ${JSON.stringify(path)}: ${messageOf(cause)}`, { cause });
}
