/** `crib inherit-directories`: see src/storage/inherit-directories.ts. Only `crib serve` calls it. */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { inheritDirectories } from "../storage/inherit-directories.ts";

/**
 * `inherit-directories --layer DIR --index FILE`: standard input has the directories of the layers below,
 * the nearest first, one on each line. Says nothing, or on standard error what has failed.
 */
export function inherit(args: readonly string[]): void {
  const { values } = parseArgs({
    args: [...args],
    options: { layer: { type: "string" }, index: { type: "string" } },
  });
  const { layer, index } = values;
  if (layer === undefined || index === undefined) throw new Error("a path is missing");
  const below = readFileSync(0, "utf8").split("\n").filter(Boolean);
  inheritDirectories({ layer, indexFile: index, below });
}
