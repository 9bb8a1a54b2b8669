/**
 * Walks the tree below a cgroup's directory, whose length and depth containers decide: in slices, with one
 * descriptor, and with no path longer than a name (those of a deep tree are too long for Linux).
 */
import { closeSync, constants, openSync, readdirSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";
import { attempt, attemptUnless } from "./kernel-file.ts";

const SLICE_MS = 3;

export interface CgroupVisitor {
  /** Called for each directory, by a path that is good for the length of the call. */
  visit?(directory: string): void;
  /** Called for each directory but the top one, after those below it; it is closed then. */
  leave?(parent: string, name: string): Promise<void>;
}

/** Children come before their parents. What goes away meanwhile is passed over. Throws a `SyscallError`. */
export async function walkCgroups(top: string, { visit, leave }: CgroupVisitor): Promise<void> {
  let fd = openDirectory(top);
  if (fd === undefined) return;
  const above: Array<{ name: string; left: string[] }> = [];
  const enter = (next: number) => {
    if (fd !== undefined) closeSync(fd);
    fd = next;
    return `/proc/self/fd/${next}`;
  };
  try {
    let directory = `/proc/self/fd/${fd}`;
    let left = childrenOf(directory);
    for (let since = performance.now(); ; ) {
      if (performance.now() - since > SLICE_MS) {
        await nextTurn();
        since = performance.now();
      }
      const name = left.pop();
      if (name !== undefined) {
        const child = openDirectory(`${directory}/${name}`);
        if (child === undefined) continue;
        directory = enter(child);
        above.push({ name, left });
        left = childrenOf(directory);
        continue;
      }
      visit?.(directory);
      const parent = above.pop();
      if (parent === undefined) return;
      const path = `${directory}/..`;
      directory = enter(attempt("open", path, () => openSync(path, DIRECTORY)));
      await leave?.(directory, parent.name);
      left = parent.left;
    }
  } finally {
    closeSync(fd);
  }
}

const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY;

function openDirectory(path: string): number | undefined {
  return attemptUnless(["ENOENT", "ENODEV"], "open", path, () => openSync(path, DIRECTORY));
}

/** The names of a cgroup's children; none when it is gone. */
export function childrenOf(directory: string): string[] {
  const entries = attemptUnless(["ENOENT", "ENODEV"], "readdir", directory, () =>
    readdirSync(directory, { withFileTypes: true }),
  );
  return (entries ?? []).filter((entry) => entry.isDirectory()).map((entry) => entry.name);
}
