import { release } from "node:os";
import { CribError, messageOf } from "../../error.ts";
import type { SecurityProfile } from "../../gen/runtime/v1/security_pb.ts";
import { codeOf } from "../../linux/errno.ts";
import { loadRegularFile } from "../../linux/regular-file.ts";
import { chooseProfile, type ProfileChoice } from "./lsm.ts";
import type { OciSeccomp } from "./oci.ts";
import { impossible, invalid } from "./refuse.ts";
import { defaultSeccomp } from "./seccomp-default.ts";
import { parseSeccompProfile } from "./seccomp-profile.ts";

export interface SeccompRequest {
  profile: SecurityProfile | undefined;
  /** The field that `profile` replaced, `seccomp_profile_path`. */
  deprecated: string;
  privileged: boolean;
  /** The container's bounding set, with CAP_. */
  capabilities: readonly string[];
  /** Whether it runs under Crib's AppArmor profile. */
  apparmor: boolean;
  /** `runtime.seccomp_profile`: a file in place of the built-in profile; "" is the built-in one. */
  defaultProfile: string;
  /** `runtime.unset_seccomp_profile`: of a container that names none. */
  unset: "Unconfined" | "RuntimeDefault";
  /** Whether the OCI runtime was built with seccomp. */
  supported: boolean;
  /** Node's name of the architecture and the kernel's release; the host's own unless in tests. */
  arch?: string;
  kernel?: string;
}

/** Ten times the built-in profile. Reading and checking one takes the daemon's time. */
const LIMIT_BYTES = 256 * 1024;
const FIELD = "linux.security_context.seccomp";

/**
 * `linux.seccomp`, or undefined for an unconfined container: privileged, profile Unconfined, or none
 * given, unless the node says otherwise (critest: "nil profile, which is unconfined").
 */
export async function buildSeccomp(
  request: SeccompRequest,
): Promise<{ seccomp: OciSeccomp | undefined; warnings: string[] }> {
  const choice: ProfileChoice = chooseProfile(
    request.profile,
    request.deprecated,
    FIELD,
    "linux.security_context.seccomp_profile_path",
  ) ?? { type: request.unset, ref: "" };
  if (choice.type === "Unconfined") return { seccomp: undefined, warnings: [] };
  if (request.privileged) {
    const warning = `${FIELD}: ${choice.ref} has no effect: the container is privileged`;
    return { seccomp: undefined, warnings: choice.type === "Localhost" ? [warning] : [] };
  }
  if (!request.supported) {
    throw impossible(FIELD, choice.type, "this OCI runtime was built without seccomp");
  }
  return { seccomp: await load(choice.type, choice.ref, request), warnings: [] };
}

async function load(type: string, ref: string, request: SeccompRequest): Promise<OciSeccomp> {
  const arch = request.arch ?? process.arch;
  const builtIn = type === "RuntimeDefault" && request.defaultProfile === "";
  if (builtIn) return defaultSeccomp({ ...request, arch });
  const local = type === "Localhost";
  const path = local ? ref : request.defaultProfile;
  const field = local ? `${FIELD}.localhost_ref` : "runtime.seccomp_profile";
  if (!path.startsWith("/")) throw invalid(field, path, "must be an absolute path");
  let text: string;
  try {
    text = (await loadRegularFile(path, LIMIT_BYTES)).toString();
  } catch (cause) {
    const missing = codeOf(cause) === "ENOENT";
    const reason = missing ? "no such file on this node" : messageOf(cause);
    throw new CribError("InvalidArgument", `${field}: ${path}: ${reason}`, { cause });
  }
  try {
    const { capabilities } = request;
    return parseSeccompProfile(text, { capabilities, arch, kernel: request.kernel ?? release() });
  } catch (cause) {
    throw new CribError("InvalidArgument", `${field}: ${path}: ${messageOf(cause)}`, { cause });
  }
}
