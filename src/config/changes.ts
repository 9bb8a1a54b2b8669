import type { Config } from "./config.ts";

/**
 * The keys whose values differ, as "section.key", in the order of the sections.
 *
 * @example changedKeys(running, next); // ["log.level", "network.timeout_seconds"]
 */
export function changedKeys(before: Config, after: Config): string[] {
  return Object.entries(after).flatMap(([section, table]) => {
    const old: Record<string, unknown> = { ...before[section as keyof Config] };
    return Object.entries(table)
      .filter(([key, value]) => !Bun.deepEquals(old[key], value, true))
      .map(([key]) => `${section}.${key}`);
  });
}
