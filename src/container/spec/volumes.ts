import { closeSync, constants, mkdirSync, openSync, readlinkSync, realpathSync } from "node:fs";
import { posix } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { messageOf } from "../../error.ts";
import { codeOf } from "../../linux/errno.ts";
import { openInRoot } from "../../linux/file.ts";
import { O_PATH } from "../../linux/open-flags.ts";
import { invalid } from "./refuse.ts";

/** As the kernel counts before ELOOP. */
const MAX_LINKS = 40;
/**
 * Look-ups and new directories for all volumes of a container together. Programs have a handful of volumes,
 * a few names deep; each step is a system call or two, after which others have their turn.
 */
const MAX_STEPS = 4096;

/**
 * Image-defined volumes: each is a plain directory of the container's own root file system, made when
 * the image lacks it (CRI-O's default, image_volumes = "mkdir"). What the image has there stays, it
 * counts as the container's disk usage, and it goes with the container.
 */
export async function makeImageVolumes(
  rootfs: string,
  volumes: readonly string[] | null | undefined,
  mounted: ReadonlySet<string>,
): Promise<void> {
  const root = new Root(rootfs);
  for (const volume of volumes ?? []) {
    const path = posix.resolve("/", volume);
    if (mounted.has(path)) continue;
    try {
      await root.step();
      await root.makeDirectories(path);
    } catch (cause) {
      throw invalid("image Volumes", path, messageOf(cause));
    }
  }
}

/** mkdir -p inside a root: the image's symlinks are followed as the container would follow them. */
class Root {
  #steps = 0;

  constructor(readonly path: string) {}

  async makeDirectories(path: string): Promise<void> {
    let missing: string | undefined = path;
    for (let links = 0; links <= MAX_LINKS; links++) {
      missing = await this.#make(missing.split("/").filter((name) => name !== ""));
      if (missing === undefined) return;
    }
    throw new Error("leads through too many symlinks");
  }

  /** undefined: all is there now; else what is to be made first, since a symlink leads there. */
  async #make(names: readonly string[]): Promise<string | undefined> {
    const existing = await this.#existing(names);
    if (existing === names.length) return undefined;
    let directory = openInRoot(this.path, pathOf(names, existing), O_PATH | constants.O_DIRECTORY);
    try {
      for (const [index, name] of names.entries()) {
        if (index < existing) continue;
        await this.step();
        const handle = `/proc/self/fd/${directory}`;
        const below = `${handle}/${name}`;
        try {
          mkdirSync(below, 0o755);
        } catch (error) {
          if (codeOf(error) !== "EEXIST") throw error;
          // A symlink to what is not there yet, as /var/run -> /run in some images: make that.
          const inside = posix.relative(realpathSync(this.path), readlinkSync(handle));
          return posix.resolve("/", inside, readlinkSync(below), ...names.slice(index + 1));
        }
        const child = openSync(below, O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW);
        closeSync(directory);
        directory = child;
      }
      return undefined;
    } finally {
      closeSync(directory);
    }
  }

  /** How many of the names, from the first on, lead to a directory. The root is there. */
  async #existing(names: readonly string[]): Promise<number> {
    let some = 0;
    let tooMany = names.length + 1;
    // Nearly always all of them are.
    for (let tried = names.length; some + 1 < tooMany; tried = (some + tooMany) >> 1) {
      await this.step();
      if (exists(this.path, pathOf(names, tried))) some = tried;
      else tooMany = tried;
    }
    return some;
  }

  /** One of the budget; then others have their turn. */
  async step(): Promise<void> {
    this.#steps += 1;
    if (this.#steps > MAX_STEPS) {
      throw new Error(`the image's volumes need more than ${MAX_STEPS} look-ups and directories`);
    }
    await nextTurn();
  }
}

function pathOf(names: readonly string[], count: number): string {
  return `/${names.slice(0, count).join("/")}`;
}

function exists(rootfs: string, path: string): boolean {
  try {
    closeSync(openInRoot(rootfs, path, O_PATH | constants.O_DIRECTORY));
    return true;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return false;
    throw error;
  }
}
