import { CribError, messageOf } from "../../error.ts";
import type { LinuxContainerSecurityContext } from "../../gen/runtime/v1/container_config_pb.ts";
import { SupplementalGroupsPolicy } from "../../gen/runtime/v1/security_pb.ts";
import { readFileInRoot } from "../../linux/file.ts";
import type { ContainerUser } from "./input.ts";
import { invalid } from "./refuse.ts";

export interface ResolvedUser extends ContainerUser {
  /** The home directory of /etc/passwd; "/" for a user that is not there. */
  home: string;
}

export interface UserRequest {
  rootfs: string;
  security: LinuxContainerSecurityContext | undefined;
  /** `User` of the image configuration: "", "user", "uid", "user:group", "uid:gid". */
  imageUser: string;
}

interface PasswdEntry {
  name: string;
  uid: number;
  gid: number;
  home: string;
}

interface GroupEntry {
  name: string;
  gid: number;
  members: string[];
}

/** -1 means "unchanged" to setuid(2), so the last id is 2^32 - 2. */
const MAX_ID = 0xffff_fffe;
const MAX_FILE_BYTES = 8 * 1024 * 1024;

/**
 * Who the container's first process runs as: the request's user, else the image's, else root; names
 * are looked up in the image's /etc/passwd and /etc/group. KEP-3619 rules the supplemental groups.
 */
export function resolveUser(request: UserRequest): ResolvedUser {
  const { user, group, userField, groupField } = chooseUser(request);
  const passwd = parsePasswd(readUserFile(request.rootfs, "/etc/passwd"));
  const groups = parseGroup(readUserFile(request.rootfs, "/etc/group"));

  const entry = findUser(passwd, user);
  const uid = entry?.uid ?? numericId(user, userField);
  if (uid === undefined) {
    throw invalid(userField, user, "is not in the image's /etc/passwd");
  }
  const gid = group === undefined ? (entry?.gid ?? 0) : findGroup(groups, group, groupField);

  const security = request.security;
  const supplemental = new Set([gid]);
  for (const [index, id] of (security?.supplementalGroups ?? []).entries()) {
    const field = `linux.security_context.supplemental_groups[${index}]`;
    supplemental.add(checkId(id, field));
  }
  if (mergesImageGroups(security) && entry !== undefined) {
    for (const { gid: id, members } of groups) {
      if (members.includes(entry.name)) supplemental.add(id);
    }
  }
  return {
    uid,
    gid,
    supplementalGroups: [...supplemental].sort((a, b) => a - b),
    home: entry?.home || "/",
  };
}

interface Choice {
  user: string;
  group: string | undefined;
  userField: string;
  groupField: string;
}

function chooseUser({ security, imageUser }: UserRequest): Choice {
  const userField = "linux.security_context.run_as_user";
  const nameField = "linux.security_context.run_as_username";
  const groupField = "linux.security_context.run_as_group";
  const id = security?.runAsUser?.value;
  const name = security?.runAsUsername ?? "";
  const groupId = security?.runAsGroup?.value;
  const group = groupId === undefined ? undefined : String(checkId(groupId, groupField));

  if (id !== undefined && name !== "") {
    throw invalid(nameField, name, `run_as_user ${id} is given too; only one of them may be`);
  }
  if (id !== undefined) {
    return { user: String(checkId(id, userField)), group, userField, groupField };
  }
  if (name !== "") return { user: name, group, userField: nameField, groupField };
  if (group !== undefined) {
    throw invalid(groupField, groupId, "needs run_as_user or run_as_username");
  }
  const [user = "", imageGroup, ...rest] = imageUser.trim().split(":");
  if (rest.length > 0) throw invalid("image User", imageUser, 'is not "user" or "user:group"');
  return {
    user: user === "" ? "0" : user,
    group: imageGroup === "" ? undefined : imageGroup,
    userField: "image User",
    groupField: "image User",
  };
}

function mergesImageGroups(security: LinuxContainerSecurityContext | undefined): boolean {
  const policy = security?.supplementalGroupsPolicy ?? SupplementalGroupsPolicy.Merge;
  if (policy === SupplementalGroupsPolicy.Merge) return true;
  if (policy === SupplementalGroupsPolicy.Strict) return false;
  throw invalid("linux.security_context.supplemental_groups_policy", policy, "is not known");
}

/** Digits are an id, as for the kubelet, also where a user has digits for a name. */
function findUser(passwd: readonly PasswdEntry[], user: string): PasswdEntry | undefined {
  if (!/^\d+$/.test(user)) return passwd.find(({ name }) => name === user);
  return passwd.find(({ uid }) => uid === Number(user));
}

function findGroup(groups: readonly GroupEntry[], group: string, field: string): number {
  const id = numericId(group, field);
  if (id !== undefined) return id;
  const entry = groups.find(({ name }) => name === group);
  if (entry === undefined) throw invalid(field, group, "is not in the image's /etc/group");
  return entry.gid;
}

function numericId(text: string, field: string): number | undefined {
  return /^\d+$/.test(text) ? checkId(BigInt(text), field) : undefined;
}

function checkId(id: bigint, field: string): number {
  if (id < 0n || id > BigInt(MAX_ID)) throw invalid(field, id, `must be 0 to ${MAX_ID}`);
  return Number(id);
}

/** An image may lack the files; it may not have something else in their place. */
function readUserFile(rootfs: string, path: string): string {
  try {
    return readFileInRoot(rootfs, path, MAX_FILE_BYTES)?.toString("utf8") ?? "";
  } catch (cause) {
    throw new CribError("InvalidArgument", `image file ${path}: ${messageOf(cause)}`, { cause });
  }
}

/** passwd(5). Lines that are not entries are skipped, as getpwent(3) does. */
function parsePasswd(text: string): PasswdEntry[] {
  const entries: PasswdEntry[] = [];
  for (const line of text.split("\n")) {
    const [name = "", , uid = "", gid = "", , home = ""] = line.trim().split(":");
    if (name === "" || !isId(uid) || !isId(gid)) continue;
    entries.push({
      name,
      uid: Number(uid),
      gid: Number(gid),
      home: home.startsWith("/") ? home : "",
    });
  }
  return entries;
}

/** group(5). */
function parseGroup(text: string): GroupEntry[] {
  const entries: GroupEntry[] = [];
  for (const line of text.split("\n")) {
    const [name = "", , gid = "", members = ""] = line.trim().split(":");
    if (name === "" || !isId(gid)) continue;
    const list = members.split(",").map((member) => member.trim());
    entries.push({ name, gid: Number(gid), members: list });
  }
  return entries;
}

function isId(text: string): boolean {
  return /^\d+$/.test(text) && Number(text) <= MAX_ID;
}
