import type { LinuxContainerSecurityContext } from "../../gen/runtime/v1/container_config_pb.ts";
import { SupplementalGroupsPolicy } from "../../gen/runtime/v1/security_pb.ts";
import type { ContainerUser } from "./input.ts";
import { invalid } from "./refuse.ts";
import { findGroups, findUser, type GroupQuery, MAX_ID } from "./user-file.ts";

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

/**
 * Who the container's first process runs as: the request's user, else the image's, else root; names
 * are looked up in the image's /etc/passwd and /etc/group. KEP-3619 rules the supplemental groups.
 */
export async function resolveUser(request: UserRequest): Promise<ResolvedUser> {
  const { rootfs, security } = request;
  const { user, group, userField, groupField } = chooseUser(request);
  const userId = numericId(user, userField);
  const groupId = group === undefined ? undefined : numericId(group, groupField);

  // Digits are an id, as for the kubelet, also where a user has digits for a name.
  const entry = await findUser(rootfs, userId ?? user);
  const uid = entry?.uid ?? userId;
  if (uid === undefined) {
    throw invalid(userField, user, "is not in the image's /etc/passwd");
  }
  const name = groupId === undefined ? group : undefined;
  const member = mergesImageGroups(security) ? entry?.name : undefined;
  const { named, ofMember } = await groupsOf(rootfs, { name, member });
  if (name !== undefined && named === undefined) {
    throw invalid(groupField, name, "is not in the image's /etc/group");
  }
  const gid = named ?? groupId ?? entry?.gid ?? 0;

  const supplemental = new Set([gid, ...ofMember]);
  for (const [index, id] of (security?.supplementalGroups ?? []).entries()) {
    const field = `linux.security_context.supplemental_groups[${index}]`;
    supplemental.add(checkId(id, field));
  }
  return {
    uid,
    gid,
    supplementalGroups: [...supplemental].sort((a, b) => a - b),
    home: entry?.home || "/",
  };
}

/** Where nothing is asked for the file is not read. */
async function groupsOf(rootfs: string, query: GroupQuery) {
  if (query.name !== undefined || query.member !== undefined) return findGroups(rootfs, query);
  return { named: undefined, ofMember: [] };
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

function numericId(text: string, field: string): number | undefined {
  return /^\d+$/.test(text) ? checkId(BigInt(text), field) : undefined;
}

function checkId(id: bigint, field: string): number {
  if (id < 0n || id > BigInt(MAX_ID)) throw invalid(field, id, `must be 0 to ${MAX_ID}`);
  return Number(id);
}
