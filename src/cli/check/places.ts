/** Directories and sockets, and what is wrong with them. Pure: the facts come from facts.ts. */
import { type Finding, fail, ok, warn } from "./finding.ts";

/** The file system of a directory, or of the nearest one above it that exists. */
export interface Place {
  path: string;
  /** As in mountinfo: "ext4", "tmpfs". */
  type: string;
  /** Mount options: "rw", "noexec". */
  options: readonly string[];
  freeBytes: number;
  sizeBytes: number;
  freeInodes: number;
  /** 0: the file system has no fixed number. */
  inodes: number;
}

/** Who is at a socket: nobody, this Crib, or another program. */
export type SocketUse =
  | { kind: "free" }
  | { kind: "dead" }
  | { kind: "crib"; name: string }
  | { kind: "other" }
  | { kind: "no-socket" };

export interface PlaceFacts {
  root: Place;
  state: Place;
  socket: { path: string; use: SocketUse };
  /** path "": switched off. */
  cadvisor: { path: string; use: SocketUse };
}

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const ROOT_NEEDS_BYTES = GIB;
const STATE_NEEDS_BYTES = 16 * MIB;
const STATE_WANTS_BYTES = 64 * MIB;
/** The kubelet's own default thresholds: imagefs.available, imagefs.inodesFree. */
const EVICTION_SPACE = 0.15;
const EVICTION_INODES = 0.05;
/** overlayfs does not take these as its writable layer, or they lose what it needs. */
const NO_UPPER =
  /^(overlay|nfs4?|cifs|smb3|9p|virtiofs|vfat|exfat|ntfs3?|iso9660|squashfs|fuse.*)$/;

export function checkPlaces(facts: PlaceFacts): Finding[] {
  return [
    ...checkRoot(facts.root),
    ...checkState(facts.state),
    ...checkExec(facts),
    checkSocket(facts.socket),
    checkCadvisor(facts.cadvisor),
  ];
}

function checkRoot(root: Place): Finding[] {
  const { path, type, options } = root;
  if (options.includes("ro")) return [readOnly("root", path)];
  const kind = NO_UPPER.test(type)
    ? fail(
        "root",
        `${path} is on ${type}, on which overlayfs cannot write`,
        "set crib.root to a directory on a local disk (ext4, xfs, btrfs)",
      )
    : type === "tmpfs"
      ? warn("root", `${path} is on tmpfs: images are in memory and gone after a reboot`)
      : ok("root", `${path} on ${type}`);
  return [kind, ...rootSpace(root)];
}

function rootSpace({ path, freeBytes, sizeBytes, freeInodes, inodes }: Place): Finding[] {
  const free = `${path}: ${size(freeBytes)} of ${size(sizeBytes)} free`;
  const remedy = "make room, or set crib.root to a larger disk";
  const findings: Finding[] = [];
  if (freeBytes < ROOT_NEEDS_BYTES) findings.push(fail("space", free, remedy));
  else if (freeBytes < sizeBytes * EVICTION_SPACE) {
    const message = `${free}: under 15 % the kubelet removes images and evicts pods`;
    findings.push(warn("space", message, remedy));
  } else findings.push(ok("space", free));
  if (inodes > 0 && freeInodes < inodes * EVICTION_INODES) {
    const message = `${path}: ${freeInodes} of ${inodes} inodes free: under 5 % pods are evicted`;
    findings.push(warn("space", message, "remove small files, or use a file system with more"));
  }
  return findings;
}

function checkState({ path, type, options, freeBytes }: Place): Finding[] {
  if (options.includes("ro")) return [readOnly("state", path)];
  const findings: Finding[] = [];
  if (type === "tmpfs" || type === "ramfs") findings.push(ok("state", `${path} on ${type}`));
  else {
    const message = `${path} is on ${type}: it must be empty after a reboot, which a tmpfs is`;
    findings.push(
      warn("state", message, "set crib.state to a directory on a tmpfs, as below /run"),
    );
  }
  const free = `${path}: ${size(freeBytes)} free`;
  const remedy = "find what fills it (du -xd1 /run), or mount it larger: mount -o remount,size=";
  if (freeBytes < STATE_NEEDS_BYTES) findings.push(fail("space", free, remedy));
  else if (freeBytes < STATE_WANTS_BYTES) findings.push(warn("space", free, remedy));
  else findings.push(ok("space", free));
  return findings;
}

/** Monitors are run from the state directory, or from root where that is noexec (Debian's /run). */
function checkExec({ root, state }: PlaceFacts): Finding[] {
  if (![root, state].every(({ options }) => options.includes("noexec"))) return [];
  const message = `${state.path} and ${root.path} are both mounted noexec: no monitor can be run`;
  const remedy = "mount -o remount,exec one of them, or set crib.root or crib.state";
  return [fail("state", message, remedy)];
}

function readOnly(check: string, path: string): Finding {
  return fail(
    check,
    `${path} is mounted read-only`,
    `mount -o remount,rw it, or set crib.${check}`,
  );
}

function checkSocket({ path, use }: PlaceFacts["socket"]): Finding {
  switch (use.kind) {
    case "free":
      return ok("socket", `${path} is free`);
    case "dead":
      return ok("socket", `${path}: nobody answers; crib serve will replace it`);
    case "crib":
      return ok("socket", `${path}: ${use.name} answers`);
    case "other":
      return fail("socket", `${path}: another program answers`, "stop it, or set crib.socket");
    case "no-socket":
      return fail("socket", `${path} is there and is no socket`, "remove it, or set crib.socket");
  }
}

function checkCadvisor({ path, use }: PlaceFacts["cadvisor"]): Finding {
  const lost = "the kubelet's own metrics will show no pods of Crib";
  if (path === "") return warn("metrics", `cadvisor.socket is off: ${lost}`);
  switch (use.kind) {
    case "free":
      return ok("metrics", `${path} is free`);
    case "crib":
      return ok("metrics", `${path}: ${use.name} answers the kubelet's cAdvisor`);
    case "dead":
      return warn(
        "metrics",
        `${path}: a socket is there and nobody answers; Crib takes it only if a Crib made it`,
        "if no other runtime uses it: remove it",
      );
    default:
      return warn(
        "metrics",
        `${path} is another runtime's: ${lost}`,
        'remove that runtime, or set cadvisor.socket = "" to say that you know',
      );
  }
}

function size(bytes: number): string {
  return bytes >= GIB ? `${(bytes / GIB).toFixed(1)} GiB` : `${Math.floor(bytes / MIB)} MiB`;
}
