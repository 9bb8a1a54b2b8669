import { statSync } from "node:fs";
import { ifThere } from "../config/if-there.ts";
import { CribError } from "../error.ts";

/** Changes when the file does; of a directory, when its index does. Throws a `CribError` NotFound. */
export function stampOf(path: string): string {
  for (const file of [`${path}/index.json`, path]) {
    const stat = ifThere(() => statSync(file, { bigint: true }));
    if (stat !== undefined) return `${stat.size}-${stat.mtimeNs}`;
  }
  throw new CribError("NotFound", `${path}: there is no such file or directory`);
}
