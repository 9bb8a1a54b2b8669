/** Choosing from an index what runs on this machine. */
import { readFileSync } from "node:fs";
import type { Descriptor } from "./manifest.ts";
import { isIndexType } from "./media-types.ts";

export interface Platform {
  os: string;
  architecture: string;
  /** Acceptable variants, the best first; "" is an entry that names none. */
  variants: readonly string[];
}

/** This machine, in Go's names; `flags` are those of an x86 processor. */
export function hostPlatform(arch: string = process.arch, flags = cpuFlags): Platform {
  switch (arch) {
    case "arm64":
      return { os: "linux", architecture: "arm64", variants: ["v8", ""] };
    case "x64":
      return { os: "linux", architecture: "amd64", variants: ["", "v1", ...amd64Levels(flags())] };
    default:
      return { os: "linux", architecture: arch, variants: [""] };
  }
}

/** Of the x86-64 psABI, as Linux names them; each level needs those before it. */
const AMD64_LEVELS: ReadonlyArray<[variant: string, flags: string]> = [
  ["v2", "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"],
  ["v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"],
];

/** The variants of amd64 that a processor with these flags runs, besides v1. */
function amd64Levels(flags: ReadonlySet<string>): string[] {
  const missing = AMD64_LEVELS.findIndex(([, needed]) =>
    needed.split(" ").some((flag) => !flags.has(flag)),
  );
  return AMD64_LEVELS.slice(0, missing < 0 ? undefined : missing).map(([variant]) => variant);
}

function cpuFlags(): Set<string> {
  try {
    const line = /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "";
    return new Set(line.trim().split(" "));
  } catch {
    return new Set();
  }
}

/** What is chosen from; one without a media type is taken for a manifest. */
type Entry = Pick<Descriptor, "platform"> & Partial<Pick<Descriptor, "mediaType">>;

/**
 * The entries of an index to look at, the best first: those of the platform by variant, then nested
 * indexes that do not say what they hold, then manifests without a platform. Entries for "unknown"
 * are attestations.
 */
export function choose<T extends Entry>(entries: readonly T[], platform: Platform): T[] {
  const ranked: Array<{ rank: number; entry: T }> = [];
  for (const entry of entries) {
    const rank = rankOf(entry, platform);
    if (rank !== undefined) ranked.push({ rank, entry });
  }
  return ranked.sort((a, b) => a.rank - b.rank).map(({ entry }) => entry);
}

function rankOf(entry: Entry, platform: Platform): number | undefined {
  const { variants } = platform;
  if (!entry.platform) {
    return variants.length + (isIndexType(entry.mediaType ?? "") ? 0 : 1);
  }
  const { os, architecture, variant } = normalPlatform(entry.platform);
  if (os !== platform.os || architecture !== platform.architecture) return undefined;
  const rank = variants.indexOf(variant);
  return rank < 0 ? undefined : rank;
}

const OTHER_NAMES: Readonly<Record<string, string>> = {
  x86_64: "amd64",
  "x86-64": "amd64",
  aarch64: "arm64",
};

/** In Go's names, whatever their case, as containerd reads them: some tools write the kernel's. */
export function normalPlatform<T extends { os: string; architecture: string; variant?: string }>(
  platform: T,
): T {
  const name = platform.architecture.toLowerCase();
  const architecture = OTHER_NAMES[name] ?? name;
  const said = platform.variant?.toLowerCase();
  const variant = architecture === "arm64" && said === "8" ? "v8" : said;
  return { ...platform, os: platform.os.toLowerCase(), architecture, variant };
}

/** "linux/amd64 v1", for messages. */
export function describePlatform({
  os,
  architecture,
  variant,
}: NonNullable<Descriptor["platform"]>) {
  return `${os}/${architecture}${variant === "" ? "" : ` ${variant}`}`;
}
