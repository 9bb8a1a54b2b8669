import { messageOf } from "../../error.ts";
import {
  SecurityProfile_ProfileType as ProfileType,
  type SELinuxOption,
  type SecurityProfile,
} from "../../gen/runtime/v1/security_pb.ts";
import { isAppArmorProfileLoaded } from "../../linux/apparmor.ts";
import { defaultAppArmorProfile } from "../apparmor-default.ts";
import { impossible, invalid, unsupported } from "./refuse.ts";

/** A security profile as either of CRI's two fields may say it. */
export interface ProfileChoice {
  type: "RuntimeDefault" | "Unconfined" | "Localhost";
  /** The profile's name or path with Localhost; else "". */
  ref: string;
}

/**
 * Reads `profile`, or the string field that it replaced ("runtime/default", "unconfined",
 * "localhost/REF"; "" is nothing). Where both are given `profile` counts. Undefined when neither is.
 *
 * @throws CribError InvalidArgument for one that cannot be understood.
 */
export function chooseProfile(
  profile: SecurityProfile | undefined,
  deprecated: string,
  field: string,
  deprecatedField: string,
): ProfileChoice | undefined {
  const old = parseDeprecated(deprecated, deprecatedField);
  if (profile === undefined) return old;
  const name: string | undefined = ProfileType[profile.profileType];
  if (name === undefined)
    throw invalid(`${field}.profile_type`, profile.profileType, "is not known");
  const type = name as ProfileChoice["type"];
  const ref = profile.localhostRef;
  if (type === "Localhost" && ref === "") {
    throw invalid(`${field}.localhost_ref`, ref, "profile_type Localhost needs it");
  }
  if (type !== "Localhost" && ref !== "") {
    throw invalid(`${field}.localhost_ref`, ref, `is only for Localhost, not for ${type}`);
  }
  return { type, ref };
}

function parseDeprecated(value: string, field: string): ProfileChoice | undefined {
  if (value === "") return undefined;
  if (value === "unconfined") return { type: "Unconfined", ref: "" };
  if (value === "runtime/default" || value === "docker/default") {
    return { type: "RuntimeDefault", ref: "" };
  }
  const ref = /^localhost\/(.+)$/s.exec(value)?.[1];
  if (ref !== undefined) return { type: "Localhost", ref };
  throw invalid(field, value, 'must be "runtime/default", "unconfined" or "localhost/..."');
}

export interface AppArmorRequest {
  profile: SecurityProfile | undefined;
  deprecated: string;
  /** Where the two fields are, for messages: "linux.security_context". */
  field: string;
  privileged: boolean;
  host: { apparmor: boolean };
  runtime: { apparmor: boolean };
  isLoaded?: (name: string) => Promise<boolean>;
  loadDefault?: () => Promise<string | undefined>;
}

/**
 * `process.apparmorProfile`, or undefined for none. A container that asks for nothing gets the default
 * profile too, unless it is privileged, as with the peers. Where AppArmor is off who asks for a profile is
 * refused: the kubelet lets no such pod onto the node (kubelet/lifecycle, pkg/security/apparmor).
 */
export async function buildAppArmor(request: AppArmorRequest): Promise<string | undefined> {
  const field = `${request.field}.apparmor`;
  const choice = chooseProfile(
    request.profile,
    request.deprecated,
    field,
    `${request.field}.apparmor_profile`,
  );
  if (choice?.type === "Unconfined") return undefined;
  if (choice?.type !== "Localhost") return buildDefault(request, field, choice !== undefined);
  // The peers take the old field's form in the new one too, and critest sends it.
  const name = choice.ref.replace(/^localhost\//, "");
  if (!isProfileName(name)) {
    throw invalid(field, name.slice(0, LONGEST_NAME), "is not the name of an AppArmor profile");
  }
  if (!request.host.apparmor) throw impossible(field, name, "AppArmor is off on this host");
  if (!request.runtime.apparmor) throw impossible(field, name, NO_SUPPORT);
  const isLoaded = request.isLoaded ?? isAppArmorProfileLoaded;
  if (!(await isLoaded(name))) {
    throw impossible(field, name, "this AppArmor profile is not loaded on this host");
  }
  return name;
}

/** The OCI runtime writes it into one line of /proc/self/attr/exec, of a page at most. */
const LONGEST_NAME = 1024;

/**
 * Control characters end the line. "unconfined" is what the kernel calls the absence of a profile: who
 * may use a profile of the node may not by that use none.
 */
function isProfileName(name: string): boolean {
  return name !== "unconfined" && name.length <= LONGEST_NAME && !/\p{Cc}/u.test(name);
}

const NO_SUPPORT = "this OCI runtime has no AppArmor support";

/** Who asks for the default profile gets it or an error; who asks for nothing gets it where there is one. */
async function buildDefault(
  request: AppArmorRequest,
  field: string,
  isAsked: boolean,
): Promise<string | undefined> {
  if (request.privileged) return undefined;
  const refuse = (reason: string) => impossible(field, "RuntimeDefault", reason);
  if (!request.host.apparmor) {
    if (isAsked) throw refuse("AppArmor is off on this host");
    return undefined;
  }
  if (!request.runtime.apparmor) {
    if (isAsked) throw refuse(NO_SUPPORT);
    return undefined;
  }
  let name: string | undefined;
  try {
    name = await (request.loadDefault ?? defaultAppArmorProfile)();
  } catch (error) {
    throw refuse(`Crib's AppArmor profile cannot be loaded: ${messageOf(error)}`);
  }
  if (name === undefined && isAsked) {
    throw refuse("this host has no apparmor_parser to load it: install the package apparmor");
  }
  return name;
}

/** SELinux labels: nothing where SELinux is off (with a warning), not yet where it is on. */
export function checkSELinux(
  options: SELinuxOption | undefined,
  field: string,
  host: { selinux: boolean },
): string[] {
  if (options === undefined) return [];
  const { user, role, type, level } = options;
  const label = [user, role, type, level].filter((part) => part !== "").join(":");
  if (label === "") return [];
  if (host.selinux) throw unsupported(field, label, "Crib sets no SELinux labels yet");
  return [`${field}: ${label} has no effect: SELinux is off on this host`];
}
