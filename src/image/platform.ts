/** Choosing from an index what runs on this machine. */
import type { Descriptor } from "./manifest.ts";
import { DOCKER_LIST, OCI_INDEX } from "./media-types.ts";

export interface Platform {
  os: string;
  architecture: string;
  /** Acceptable variants, the best first; "" is an entry that names none. */
  variants: readonly string[];
}

/** This machine, in Go's names. */
export function hostPlatform(arch: string = process.arch): Platform {
  switch (arch) {
    case "arm64":
      return { os: "linux", architecture: "arm64", variants: ["v8", ""] };
    case "x64":
      return { os: "linux", architecture: "amd64", variants: ["", "v1"] };
    default:
      return { os: "linux", architecture: arch, variants: [""] };
  }
}

/**
 * The entries of an index to look at, the best first: those of the platform by variant, then nested
 * indexes that do not say what they hold, then manifests without a platform. Entries for "unknown"
 * are attestations.
 */
export function choose(entries: readonly Descriptor[], platform: Platform): Descriptor[] {
  const ranked: Array<{ rank: number; entry: Descriptor }> = [];
  for (const entry of entries) {
    const rank = rankOf(entry, platform);
    if (rank !== undefined) ranked.push({ rank, entry });
  }
  return ranked.sort((a, b) => a.rank - b.rank).map(({ entry }) => entry);
}

function rankOf(entry: Descriptor, platform: Platform): number | undefined {
  const { variants } = platform;
  if (!entry.platform) {
    const isIndex = entry.mediaType === OCI_INDEX || entry.mediaType === DOCKER_LIST;
    return variants.length + (isIndex ? 0 : 1);
  }
  const { os, architecture, variant } = entry.platform;
  if (os !== platform.os || architecture !== platform.architecture) return undefined;
  const rank = variants.indexOf(variant);
  return rank < 0 ? undefined : rank;
}

/** "linux/amd64 v1", for messages. */
export function describePlatform({
  os,
  architecture,
  variant,
}: NonNullable<Descriptor["platform"]>) {
  return `${os}/${architecture}${variant === "" ? "" : ` ${variant}`}`;
}
