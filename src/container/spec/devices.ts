import { lstat, readdir, realpath, stat } from "node:fs/promises";
import { join, posix } from "node:path";
import { CribError, messageOf } from "../../error.ts";
import type { Device } from "../../gen/runtime/v1/container_config_pb.ts";
import { codeOf } from "../../linux/errno.ts";
import type { OciDevice, OciDeviceRule } from "./oci.ts";
import { invalid } from "./refuse.ts";

export interface DeviceRequest {
  devices: readonly Device[];
  privileged: boolean;
  /** The container mounts something at /dev itself: no nodes are made in it. */
  mountsDev: boolean;
  /** The host's /dev; another directory in tests. */
  hostDev?: string;
  /** Of a directory with more files, at any depth, devices are not looked for; other numbers in tests. */
  mostEntries?: number;
}

/** Directories and nodes of /dev that belong to the host's mounts and terminals, not to hardware. */
const NOT_HARDWARE = new Set([
  "pts",
  "shm",
  "fd",
  "mqueue",
  "console",
  "ptmx",
  ".lxc",
  ".lxd-mounts",
  ".udev",
]);

/**
 * Device nodes and device cgroup rules. A host path may be a directory: all devices below it, at the
 * same places below the container path. Privileged: the host's devices too, and no restriction.
 */
export async function buildDevices(
  request: DeviceRequest,
): Promise<{ devices: OciDevice[]; rules: OciDeviceRule[] }> {
  const nodes = new Map<string, OciDevice>();
  const most = request.mostEntries ?? MOST_ENTRIES;
  const rules: OciDeviceRule[] = [{ allow: request.privileged, access: "rwm" }];
  if (request.privileged && !request.mountsDev) {
    for (const node of await walk(request.hostDev ?? "/dev", "/dev", NOT_HARDWARE, most)) {
      nodes.set(node.path, node);
    }
  }
  for (const [index, device] of request.devices.entries()) {
    for (const node of await requestedNodes(device, `devices[${index}]`, most)) {
      nodes.set(node.path, node);
      const { type, major, minor } = node;
      rules.push({ allow: true, type, major, minor, access: device.permissions });
    }
  }
  return { devices: [...nodes.values()], rules };
}

async function requestedNodes(device: Device, field: string, most: number): Promise<OciDevice[]> {
  const { hostPath, permissions } = device;
  const containerPath = device.containerPath === "" ? hostPath : device.containerPath;
  for (const [name, path] of Object.entries({
    host_path: hostPath,
    container_path: containerPath,
  })) {
    if (!path.startsWith("/") || path.includes("\0")) {
      throw invalid(`${field}.${name}`, path, "must be an absolute path");
    }
  }
  if (!/^[rwm]+$/.test(permissions) || new Set(permissions).size !== permissions.length) {
    throw invalid(`${field}.permissions`, permissions, 'must be one or more of "r", "w" and "m"');
  }
  const target = posix.normalize(containerPath).replace(/\/$/, "");
  try {
    const real = await realpath(hostPath);
    const node = await deviceAt(real, target);
    if (node !== undefined) return [node];
    if ((await stat(real)).isDirectory()) {
      const nodes = await walk(real, target, new Set(), most);
      if (nodes.length > 0) return nodes;
      throw invalid(`${field}.host_path`, hostPath, "holds no device");
    }
  } catch (cause) {
    if (cause instanceof CribError) throw cause;
    throw invalid(`${field}.host_path`, hostPath, messageOf(cause));
  }
  throw invalid(`${field}.host_path`, hostPath, "is not a device");
}

/** More than the /dev of any machine has: a request may name any directory. */
const MOST_ENTRIES = 65_536;

/** All device nodes below `directory`, renamed to below `target`; symlinks are not followed. */
async function walk(
  directory: string,
  target: string,
  skip: ReadonlySet<string>,
  most: number,
  seen = { entries: 0 },
): Promise<OciDevice[]> {
  const nodes: OciDevice[] = [];
  for (const name of (await readdir(directory)).sort()) {
    if (skip.has(name)) continue;
    if (++seen.entries > most) throw new Error(`more than ${most} files are below it`);
    const from = join(directory, name);
    const to = join(target, name);
    const info = await lstat(from).catch(ignoreMissing);
    if (info?.isDirectory()) nodes.push(...(await walk(from, to, skip, most, seen)));
    else if (info?.isCharacterDevice() || info?.isBlockDevice()) {
      const node = await deviceAt(from, to).catch(ignoreMissing);
      if (node !== undefined) nodes.push(node);
    }
  }
  return nodes;
}

/** Devices come and go while /dev is read. */
function ignoreMissing(error: unknown): undefined {
  if (codeOf(error) !== "ENOENT") throw error;
  return undefined;
}

async function deviceAt(from: string, path: string): Promise<OciDevice | undefined> {
  const info = await stat(from, { bigint: true });
  if (!info.isCharacterDevice() && !info.isBlockDevice()) return undefined;
  return {
    path,
    type: info.isBlockDevice() ? "b" : "c",
    major: Number(((info.rdev >> 8n) & 0xfffn) | ((info.rdev >> 32n) & ~0xfffn)),
    minor: Number((info.rdev & 0xffn) | ((info.rdev >> 12n) & ~0xffn)),
    fileMode: Number(info.mode & 0o7777n),
    uid: Number(info.uid),
    gid: Number(info.gid),
  };
}
