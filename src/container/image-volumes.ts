/** Images as volumes (KEP-4639): their files, read-only, in a container of another image. */
import { closeSync, fstatSync, readlinkSync } from "node:fs";
import { CribError, messageOf } from "../error.ts";
import type { Mount } from "../gen/runtime/v1/container_config_pb.ts";
import type { Image } from "../image/images.ts";
import { openInRoot } from "../linux/file.ts";
import { O_PATH } from "../linux/open-flags.ts";
import type { ContainerRecord, PodRecord } from "../state/records.ts";
import type { Core } from "./core.ts";
import { requireImage } from "./image-spec.ts";

/** The kubelet looks for it (k8s.io/cri-api, pkg/errors). */
const REASON = "ImageVolumeMountFailed";

/**
 * Mounts the images that a container's mounts name; returns where, by the mount's index. The container
 * holds their layers until it is removed.
 *
 * @throws CribError NotFound: no such image; DataLoss: it lacks a layer; PermissionDenied: its policy;
 *   InvalidArgument, FailedPrecondition: the path in it. The container's removal takes back what was
 *   mounted.
 */
export async function mountImages(
  core: Core,
  pod: PodRecord,
  { id, config }: ContainerRecord,
): Promise<Map<number, string>> {
  const sources = new Map<number, string>();
  const namespace = pod.config.metadata?.namespace ?? "";
  for (const [index, mount] of config.mounts.entries()) {
    if (mount.image === undefined) continue;
    const field = `mounts[${index}]`;
    checkSubPath(mount.imageSubPath, field);
    const image = findImage(core, mount, field);
    const { image: name, userSpecifiedImage } = mount.image;
    await core.images.verify(image, userSpecifiedImage || name, namespace);
    const root = core.storage.mountVolume(id, String(index), image.layers);
    sources.set(index, inImage(root, mount.imageSubPath, field));
  }
  return sources;
}

/** The ids of all images that a container uses. */
export function imagesOf(core: Core, { imageId, config }: ContainerRecord): string[] {
  const volumes = config.mounts.flatMap(({ image }) =>
    image === undefined ? [] : (core.images.find(image.image)?.id ?? []),
  );
  return [imageId, ...volumes];
}

function findImage(core: Core, { image }: Mount, field: string): Image {
  const name = requireImage(core, image, `${field}.image`);
  const what = `${REASON}: ${field}.image: "${name}"`;
  const found = core.images.find(name);
  if (found === undefined) throw new CribError("NotFound", `${what} is not on this node`);
  core.images.requireWhole(found, what);
  return found;
}

function checkSubPath(path: string, field: string): void {
  if (!path.startsWith("/") && !path.split("/").includes("..") && !path.includes("\0")) return;
  const shown = JSON.stringify(path.slice(0, 300));
  const why = 'must be relative, and without ".."';
  throw new CribError("InvalidArgument", `${field}.image_sub_path: ${shown} ${why}`);
}

/** The real path of a directory or file in a mounted image, whose symlinks lead nowhere else. */
function inImage(root: string, subPath: string, field: string): string {
  if (subPath === "") return root;
  const what = `${REASON}: ${field}.image_sub_path: ${JSON.stringify(subPath.slice(0, 300))}`;
  let fd: number;
  try {
    fd = openInRoot(root, subPath, O_PATH);
  } catch (error) {
    throw new CribError("FailedPrecondition", `${what}: ${messageOf(error)}`);
  }
  try {
    const stat = fstatSync(fd);
    // Nothing changes in an image: the path stays what it is.
    if (stat.isDirectory() || stat.isFile()) return readlinkSync(`/proc/self/fd/${fd}`);
  } finally {
    closeSync(fd);
  }
  throw new CribError("FailedPrecondition", `${what} is neither a directory nor a file`);
}
