/**
 * A container's file system: its image's layers with a writable directory on top.
 *
 * `<root>/containers/<id>/` holds `diff` (what the container writes), `work` (overlayfs's own),
 * `merged` (the mount point, the container's rootfs) and `volumes` (images that are mounted). The layers are held in SQLite for as long as the
 * directory is there, so that removing the image does not take them away.
 */
import type { Database } from "bun:sqlite";
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { CribError, messageOf } from "../error.ts";
import { codeOf } from "../linux/errno.ts";
import { isMountPoint } from "../linux/mount.ts";
import type { Unmount } from "../monitor/unmount.ts";
import { type Layer, LayerStore } from "./layers.ts";
import { mountOverlay, mountReadOnlyOverlay } from "./overlay.ts";
import { removeTree } from "./remove-tree.ts";

const ID = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

export class ContainerStorage {
  /** `<root>/containers`, on the file system that containers write to. */
  readonly directory: string;
  readonly #layers: LayerStore;
  readonly #unmount: Unmount;

  constructor(options: { root: string; database: Database; unmount: Unmount }) {
    this.#unmount = options.unmount;
    this.directory = join(options.root, "containers");
    this.#layers = new LayerStore(options);
    // As for layers: the host's users must not reach a container's setuid programs.
    mkdirSync(this.directory, { recursive: true, mode: 0o700 });
    chmodSync(this.directory, 0o700);
  }

  /** Ids that have a directory or hold layers (for recovery). */
  list(): string[] {
    const holders = this.#layers.holders("container/").map((name) => name.slice(10));
    return [...new Set([...readdirSync(this.directory), ...holders])];
  }

  /**
   * Makes the directories and mounts the overlay; returns the mount point.
   *
   * @throws CribError NotFound: a layer is gone; ResourceExhausted: the disk is full. Nothing is left.
   *   AlreadyExists: the container has a directory, which stays as it is.
   */
  async prepare(containerId: string, chainIds: readonly string[]): Promise<{ rootfs: string }> {
    const path = this.#path(containerId);
    if (existsSync(path)) throw new CribError("AlreadyExists", `container ${containerId}: ${path}`);
    try {
      const layers = this.#layers.holdAll(holderOf(containerId), chainIds);
      this.#makeDirectories(containerId, layers);
      this.mount(containerId, chainIds);
      return { rootfs: this.rootfs(containerId) };
    } catch (error) {
      await this.remove(containerId);
      throw storageError(containerId, error);
    }
  }

  /** `merged`: the mount point, whether mounted or not. */
  rootfs(containerId: string): string {
    return join(this.#path(containerId), "merged");
  }

  /** `diff`: what the container has written. */
  diff(containerId: string): string {
    return join(this.#path(containerId), "diff");
  }

  /** Mounts the overlay of a prepared container unless it is mounted: after a reboot, say. */
  mount(containerId: string, chainIds: readonly string[]): void {
    const target = this.rootfs(containerId);
    if (isMountPoint(target)) return;
    const lowers = chainIds.map((chainId) => {
      const layer = this.#layers.get(chainId);
      if (layer === undefined) {
        throw new CribError("NotFound", `container ${containerId}: layer ${chainId} is not there`);
      }
      return layer.directory;
    });
    // overlayfs wants at least one lower directory, also for an image without layers.
    if (lowers.length === 0) lowers.push(this.#makeEmpty(containerId, "empty"));
    mountOverlay({
      layersDirectory: this.#layers.directory,
      lowers,
      upper: join(this.#path(containerId), "diff"),
      work: join(this.#path(containerId), "work"),
      target,
    });
  }

  /**
   * Mounts an image's layers, read-only, for a prepared container, which holds them as its own; returns
   * the mount point. `name` tells the container's volumes apart.
   *
   * @throws CribError as `prepare`; what was made goes with `remove`.
   */
  mountVolume(containerId: string, name: string, chainIds: readonly string[]): string {
    const target = join(this.#volumes(containerId), name);
    try {
      const layers = this.#layers.holdAll(holderOf(containerId), chainIds);
      mkdirSync(target, { recursive: true, mode: 0o711 });
      // Without a writable directory, overlayfs wants two; one layer alone could hold whiteouts.
      const empty = ["empty", ...(layers.length === 0 ? ["empty-too"] : [])];
      const lowers = [
        ...empty.map((directory) => this.#makeEmpty(containerId, directory)),
        ...layers.map(({ directory }) => directory),
      ];
      mountReadOnlyOverlay({ layersDirectory: this.#layers.directory, lowers, target });
      return target;
    } catch (error) {
      throw storageError(containerId, error);
    }
  }

  /** The mount points of its volumes, whether mounted or not. */
  #mountPoints(containerId: string): string[] {
    const volumes = this.#volumes(containerId);
    const names = existsSync(volumes) ? readdirSync(volumes) : [];
    return [this.rootfs(containerId), ...names.map((name) => join(volumes, name))];
  }

  #volumes(containerId: string): string {
    return join(this.#path(containerId), "volumes");
  }

  /** Unmounts the overlay and the volumes, see `Unmount`. */
  unmount(containerId: string): Promise<void> {
    return this.#unmount(this.#mountPoints(containerId));
  }

  /** Unmounts and deletes all of the container's files, and lets go of its layers. Idempotent. */
  async remove(containerId: string): Promise<void> {
    await this.unmount(containerId);
    const path = this.#path(containerId);
    const mounted = this.#mountPoints(containerId).find(isMountPoint);
    if (mounted !== undefined) {
      throw new CribError("Internal", `container ${containerId}: ${mounted} is still mounted`);
    }
    await removeTree(path);
    await this.#layers.release(holderOf(containerId));
  }

  #makeDirectories(containerId: string, layers: readonly Layer[]): void {
    const path = this.#path(containerId);
    mkdirSync(path, { mode: 0o711 });
    chmodSync(path, 0o711);
    for (const name of ["diff", "work", "merged"]) mkdirSync(join(path, name), { mode: 0o700 });
    // The root directory of an overlay is its writable one: it takes the image's owner and mode.
    const diff = join(path, "diff");
    chmodSync(diff, 0o755);
    const top = layers.at(-1);
    if (top === undefined) return;
    const { uid, gid, mode } = statSync(join(this.#layers.directory, top.directory));
    chownSync(diff, uid, gid);
    chmodSync(diff, mode & 0o7777);
  }

  #makeEmpty(containerId: string, name: string): string {
    const empty = join(this.#path(containerId), name);
    mkdirSync(empty, { recursive: true, mode: 0o755 });
    return relative(this.#layers.directory, empty);
  }

  #path(containerId: string): string {
    if (!ID.test(containerId)) {
      throw new CribError("InvalidArgument", `container id ${JSON.stringify(containerId)}`);
    }
    return join(this.directory, containerId);
  }
}

const holderOf = (containerId: string) => `container/${containerId}`;

function storageError(containerId: string, error: unknown): unknown {
  if (error instanceof CribError) return error;
  const code = codeOf(error);
  return new CribError(
    code === "ENOSPC" || code === "EDQUOT" ? "ResourceExhausted" : "Internal",
    `container ${containerId}: rootfs: ${messageOf(error)}`,
    { cause: error },
  );
}
