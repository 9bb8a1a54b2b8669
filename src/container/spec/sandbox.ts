import type { LinuxSandboxSecurityContext } from "../../gen/runtime/v1/pod_sandbox_config_pb.ts";
import { SupplementalGroupsPolicy } from "../../gen/runtime/v1/security_pb.ts";
import { checkSELinux, chooseProfile } from "./lsm.ts";
import { checkUserNamespace } from "./namespaces.ts";
import { impossible, invalid } from "./refuse.ts";

const FIELD = "linux.security_context";
const MAX_ID = 0xffff_fffe;

/**
 * Checks the security context of a pod. A Crib pod has no image and no process of its own, so
 * users, groups, a read-only root and seccomp have nothing to act on: they are checked, and each
 * container brings its own. Returns warnings; throws a CribError for what is refused.
 */
export function validateSandboxSecurity(
  security: LinuxSandboxSecurityContext | undefined,
  host: { apparmor: boolean; selinux: boolean },
): string[] {
  if (security === undefined) return [];
  checkUserNamespace(security.namespaceOptions, `${FIELD}.namespace_options`);
  checkIds(security);
  const { seccomp, seccompProfilePath, apparmor } = security;
  chooseProfile(seccomp, seccompProfilePath, `${FIELD}.seccomp`, `${FIELD}.seccomp_profile_path`);
  const profile = chooseProfile(apparmor, "", `${FIELD}.apparmor`, "");
  if (profile?.type === "Localhost" && !host.apparmor) {
    throw impossible(`${FIELD}.apparmor`, profile.ref, "AppArmor is off on this host");
  }
  return checkSELinux(security.selinuxOptions, `${FIELD}.selinux_options`, host);
}

function checkIds(security: LinuxSandboxSecurityContext): void {
  const user = security.runAsUser?.value;
  const group = security.runAsGroup?.value;
  if (group !== undefined && user === undefined) {
    throw invalid(`${FIELD}.run_as_group`, group, "needs run_as_user");
  }
  if (SupplementalGroupsPolicy[security.supplementalGroupsPolicy] === undefined) {
    const policy = security.supplementalGroupsPolicy;
    throw invalid(`${FIELD}.supplemental_groups_policy`, policy, "is not known");
  }
  const ids: Array<[string, bigint | undefined]> = [
    ["run_as_user", user],
    ["run_as_group", group],
    ...security.supplementalGroups.map((id, index): [string, bigint] => [
      `supplemental_groups[${index}]`,
      id,
    ]),
  ];
  for (const [name, id] of ids) {
    if (id !== undefined && (id < 0n || id > BigInt(MAX_ID))) {
      throw invalid(`${FIELD}.${name}`, id, `must be 0 to ${MAX_ID}`);
    }
  }
}
