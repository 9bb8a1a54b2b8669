/**
 * `crib check-layers`: compares layers with their lists of files. Only `crib serve` calls it.
 *
 * A process of its own: reading every file of a node's images takes minutes of processor time, and what
 * a list of millions of files needs in memory is gone afterwards.
 */
import { readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { confine } from "../linux/confine.ts";
import { checkLayer } from "../storage/check-layer.ts";

/**
 * `check-layers --root DIR [--fast]`: standard input has a layer's name on each line, standard output gets a
 * line of JSON for each (src/image/layer-checker.ts). DIR, which becomes the root, holds "layers" and
 * "indexes". $SQLITE_TMPDIR takes what does not fit into memory.
 */
export function checkLayers(args: readonly string[]): void {
  const { values } = parseArgs({
    args: [...args],
    options: {
      root: { type: "string" },
      fast: { type: "boolean", default: false },
    },
  });
  const { root, fast } = values;
  if (root === undefined) throw new Error("--root is missing");
  confine(root, "look");
  for (const name of readFileSync(0, "utf8").split("\n").filter(Boolean)) {
    const problems = checkLayer(join("/layers", name), join("/indexes", name), fast);
    writeSync(1, `${JSON.stringify({ name, problems })}\n`);
  }
}
