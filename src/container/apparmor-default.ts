/**
 * The AppArmor profile of containers that ask for RuntimeDefault, or for nothing: what the peers'
 * default profiles allow and deny. The kernel forgets profiles at a reboot, and an administrator may
 * unload it: it is looked for before every container that needs it.
 */
import { existsSync } from "node:fs";
import {
  hasAppArmorParser,
  isAppArmorProfileLoaded,
  loadAppArmorProfile,
  ownAppArmorLabel,
} from "../linux/apparmor.ts";
import { log } from "../observe/log.ts";

/** The profile's name. */
export const DEFAULT_APPARMOR = "crib-default";
/** Newer versions of the language deny what their rules do not name; this one is known everywhere. */
const ABI = "abi/3.0";

let loading: Promise<void> | undefined;

/**
 * The name of the profile, which is loaded then; undefined where this host has no apparmor_parser.
 *
 * @throws Error that says why it cannot be loaded.
 */
export async function defaultAppArmorProfile(): Promise<string | undefined> {
  if (!hasAppArmorParser()) return undefined;
  // Once for each daemon, also when it is there: an older Crib's may say something else.
  await loadOnce();
  if (await isAppArmorProfileLoaded(DEFAULT_APPARMOR)) return DEFAULT_APPARMOR;
  loading = undefined;
  await loadOnce();
  return DEFAULT_APPARMOR;
}

function loadOnce(): Promise<void> {
  loading ??= load().catch((error: unknown) => {
    loading = undefined;
    throw error;
  });
  return loading;
}

async function load(): Promise<void> {
  const hasAbi = existsSync(`/etc/apparmor.d/${ABI}`);
  await loadAppArmorProfile(profileText(await ownAppArmorLabel(), hasAbi));
  log().info({ profile: DEFAULT_APPARMOR }, "AppArmor profile loaded");
}

/** The profile in AppArmor's language. @param ownLabel the profile that confines Crib itself. */
export function profileText(ownLabel: string, hasAbi: boolean): string {
  const senders = [...new Set(["unconfined", "runc", "crun", ownLabel])];
  return `${hasAbi ? `abi <${ABI}>,\n` : ""}
profile ${DEFAULT_APPARMOR} flags=(attach_disconnected, mediate_deleted) {
  # Capabilities, seccomp, namespaces and mounts limit these.
  capability,
  network,
  # Whom these reach knows no namespaces; seccomp cannot see the family in a 32 bit socketcall.
  deny network alg,
  deny network vsock,
  unix,
  file,
  umount,

  # From the node, and among the pod's containers.
${senders.map((it) => `  signal (receive) peer="${it}",`).join("\n")}
  signal (send, receive) peer=${DEFAULT_APPARMOR},
  signal (send, receive) set=("exists"),
  ptrace (readby, tracedby),
  ptrace (read, trace) peer=${DEFAULT_APPARMOR},

  deny mount,

  # Of /proc, processes' own files can be written, and kernel/shm*.
  deny /proc/* w,
  deny /proc/[^0-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sys[^/]*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/{[^s],s[^h],sh[^m]}** w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,

  # Of /sys, the cgroups.
  deny /sys/{[^f],f[^s]}** wklx,
  deny /sys/fs/{[^c],c[^g]}** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
`;
}
