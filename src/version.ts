import manifest from "../package.json" with { type: "json" };

/** Crib's own version, package.json's. */
export const VERSION: string = manifest.version;
/** What CRI's Version calls us. */
export const RUNTIME_NAME = "crib";
/** The CRI API that is served. */
export const RUNTIME_API_VERSION = "v1";
