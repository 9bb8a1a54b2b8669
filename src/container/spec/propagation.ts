import { readFileSync } from "node:fs";
import { MountPropagation } from "../../gen/runtime/v1/container_config_pb.ts";
import { impossible } from "./refuse.ts";

/** One line of /proc/self/mountinfo (proc_pid_mountinfo(5)), as far as propagation goes. */
export interface MountPoint {
  path: string;
  shared: boolean;
  slave: boolean;
}

export function readMountTable(
  mountinfo = readFileSync("/proc/self/mountinfo", "utf8"),
): MountPoint[] {
  const points: MountPoint[] = [];
  for (const line of mountinfo.split("\n")) {
    const [before = "", after] = line.split(" - ");
    const [, , , , path, , ...tags] = before.split(" ");
    if (after === undefined || path === undefined) continue;
    points.push({
      path: path.replace(/\\([0-7]{3})/g, (_, octal: string) =>
        String.fromCharCode(Number.parseInt(octal, 8)),
      ),
      shared: tags.some((tag) => tag.startsWith("shared:")),
      slave: tags.some((tag) => tag.startsWith("master:")),
    });
  }
  return points;
}

/**
 * Mounts only travel through a mount point that is shared (both ways) or a slave (towards the
 * container): on another one the promise would be silently broken.
 */
export function checkPropagation(
  propagation: Exclude<MountPropagation, MountPropagation.PROPAGATION_PRIVATE>,
  source: string,
  table: readonly MountPoint[],
  field: string,
): void {
  let point: MountPoint | undefined;
  for (const candidate of table) {
    // The last of equal paths is mounted on top.
    const longer = candidate.path.length >= (point?.path.length ?? 0);
    if (longer && isWithin(source, candidate.path)) point = candidate;
  }
  if (point === undefined || point.shared) return;
  const value = MountPropagation[propagation];
  const where = `${source} is on the mount ${point.path}, which is`;
  if (propagation === MountPropagation.PROPAGATION_BIDIRECTIONAL) {
    throw impossible(field, value, `${where} not shared`);
  }
  if (!point.slave) throw impossible(field, value, `${where} neither shared nor a slave`);
}

function isWithin(path: string, directory: string): boolean {
  return directory === "/" || path === directory || path.startsWith(`${directory}/`);
}
