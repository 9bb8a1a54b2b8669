/** AppArmor: which profiles the kernel has, and loading one (apparmor_parser(8)). */
import { readFile } from "node:fs/promises";
import { childEnvironment, runCommand } from "./command.ts";

const PARSER = "apparmor_parser";
/** It compiles the profile: fractions of a second, unless the machine is very busy. */
const LOAD_DEADLINE_MS = 60_000;

/** Whether the kernel has an AppArmor profile of this name loaded; unknown counts as loaded. */
export async function isAppArmorProfileLoaded(
  name: string,
  listFile = "/sys/kernel/security/apparmor/profiles",
): Promise<boolean> {
  let list: string;
  try {
    list = await readFile(listFile, "utf8");
  } catch {
    return true; // securityfs is not mounted: the OCI runtime will find out.
  }
  return list.split("\n").some((line) => line.replace(/ \([a-z]+\)$/, "") === name);
}

/** Whether profiles can be loaded here. */
export function hasAppArmorParser(): boolean {
  return Bun.which(PARSER, { PATH: childEnvironment().PATH }) !== null;
}

/** The profile that confines this process; "unconfined" for none. */
export async function ownAppArmorLabel(): Promise<string> {
  const label = await readFile("/proc/self/attr/current", "utf8").catch(() => "unconfined");
  return label.replace(/[\0\n]/g, "").replace(/ \([a-z]+\)$/, "") || "unconfined";
}

/**
 * Loads a profile, or puts it in place of the one of that name.
 *
 * @throws Error that says what apparmor_parser said.
 */
export async function loadAppArmorProfile(text: string): Promise<void> {
  const result = await runCommand([PARSER, "--replace", "--skip-cache"], {
    stdin: text,
    deadlineMs: LOAD_DEADLINE_MS,
  });
  if (result.timedOut) throw new Error(`${PARSER} took longer than ${LOAD_DEADLINE_MS / 1000} s`);
  if (result.exitCode !== 0) {
    const said = `${result.stderr}${result.stdout}`.trim().replaceAll(/\s+/g, " ").slice(0, 1000);
    throw new Error(`${PARSER} failed with exit code ${result.exitCode}: ${said}`);
  }
}
