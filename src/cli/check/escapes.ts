/**
 * Faults of OCI runtimes by which a container, or an image, reached the host: by their own changelogs and
 * advisories (runc's CHANGELOG.md, crun's NEWS), of August 2026. Left out is what Crib does not use (krun,
 * `exec --user`, `exec --cap`).
 */

export interface Escape {
  cve: string;
  /** The first release of each series that has the fix; later series have it too. */
  fixedIn: readonly string[];
}

export const ESCAPES: Readonly<Record<"runc" | "crun", readonly Escape[]>> = {
  runc: [
    // The executable is overwritten through /proc/self/exe.
    { cve: "CVE-2019-5736", fixedIn: ["1.0.0-rc7"] },
    // A volume is mounted through symlinks that change meanwhile.
    { cve: "CVE-2021-30465", fixedIn: ["1.0.0-rc95"] },
    // /proc or /sys is a symlink of the image.
    { cve: "CVE-2023-27561", fixedIn: ["1.1.5"] },
    { cve: "CVE-2023-28642", fixedIn: ["1.1.5"] },
    // The working directory is a descriptor that leaked from the host.
    { cve: "CVE-2024-21626", fixedIn: ["1.1.12"] },
    // Empty files and directories are made on the host.
    { cve: "CVE-2024-45310", fixedIn: ["1.1.14", "1.2.0-rc.3"] },
    // Masked paths, /dev/console, and what is written to /proc.
    { cve: "CVE-2025-31133", fixedIn: ["1.2.8", "1.3.3", "1.4.0-rc.3"] },
    { cve: "CVE-2025-52565", fixedIn: ["1.2.8", "1.3.3", "1.4.0-rc.3"] },
    { cve: "CVE-2025-52881", fixedIn: ["1.2.8", "1.3.3", "1.4.0-rc.3"] },
    // /dev is a symlink of the image.
    { cve: "CVE-2026-41579", fixedIn: ["1.3.6", "1.4.3", "1.5.0-rc.3"] },
  ],
  crun: [
    // A mount or a device goes through symlinks of the image.
    { cve: "CVE-2019-18837", fixedIn: ["0.10.5"] },
    { cve: "CVE-2026-47766", fixedIn: ["1.28"] },
  ],
};

/** Major, minor, patch, and the release candidate; a release is after all of its candidates. */
type Version = readonly [number, number, number, number];

/**
 * The names of the faults that a runtime of this version has as its project released it: a distribution
 * may have mended them without another version. None for runtimes and versions that are not known.
 *
 * @param said The first line of `--version`: "runc version 1.1.5+ds1".
 */
export function knownEscapes(said: string): string[] {
  const [, name, text = ""] = /^(runc|crun) version (\S+)/.exec(said) ?? [];
  const version = parseVersion(text);
  if (version === undefined || (name !== "runc" && name !== "crun")) return [];
  return ESCAPES[name].filter(({ fixedIn }) => !isFixed(version, fixedIn)).map(({ cve }) => cve);
}

function isFixed(version: Version, fixedIn: readonly string[]): boolean {
  const fixes = fixedIn.map(parseVersion).filter((fix) => fix !== undefined);
  const own = fixes.find((fix) => fix[0] === version[0] && fix[1] === version[1]);
  if (own !== undefined) return compare(version, own) >= 0;
  return fixes.every((fix) => compare(version, fix) > 0);
}

function parseVersion(text: string): Version | undefined {
  const match = /^(\d+)\.(\d+)(?:\.(\d+))?(?:-rc\.?(\d+))?/.exec(text);
  if (match === null) return undefined;
  const [, major, minor, patch = 0, candidate = Number.POSITIVE_INFINITY] = match;
  return [Number(major), Number(minor), Number(patch), Number(candidate)];
}

function compare(a: Version, b: Version): number {
  const at = a.findIndex((part, index) => part !== b[index]);
  return at < 0 ? 0 : (a[at] ?? 0) > (b[at] ?? 0) ? 1 : -1;
}
