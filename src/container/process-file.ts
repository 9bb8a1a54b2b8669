/**
 * What commands in a container get of its own process (user, capabilities, limits, environment, ...), as a
 * file of its own: an exec copies it and adds its command line, and reads neither that nor config.json, whose
 * lengths an image or a client has decided.
 */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { copyFile, open } from "node:fs/promises";
import * as v from "valibot";
import { codeOf } from "../linux/errno.ts";
import type { containerPaths } from "./paths.ts";

type Paths = Pick<ReturnType<typeof containerPaths>, "spec" | "process">;

const specSchema = v.object({
  process: v.looseObject({ env: v.optional(v.array(v.string()), []) }),
});

/** What the file's JSON ends with: the environment is its last field. */
const END = "]}";

/** Writes the file from the text of config.json or its object. */
export function writeProcessFile(paths: Paths, spec: unknown): void {
  const { env, args: _, terminal: __, ...rest } = v.parse(specSchema, spec).process;
  // All or nothing: a copy of a part would be another process.
  const part = `${paths.process}.part`;
  writeFileSync(part, JSON.stringify({ ...rest, env }), { mode: 0o600 });
  renameSync(part, paths.process);
}

/**
 * Writes the process of a command to `file`: that of the container, with another command line.
 *
 * @param command `env`: "NAME=value", more than the container's process has.
 */
export async function writeCommandFile(
  paths: Paths,
  file: string,
  command: { args: readonly string[]; env: readonly string[]; terminal: boolean },
): Promise<void> {
  try {
    await copyFile(paths.process, file);
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
    // A container that an older Crib has made.
    writeProcessFile(paths, JSON.parse(readFileSync(paths.spec, "utf8")));
    await copyFile(paths.process, file);
  }
  const { args, env, terminal } = command;
  // PATH is always there before these.
  const more = env.map((variable) => `,${JSON.stringify(variable)}`).join("");
  const rest = JSON.stringify({ args, terminal }).slice(1);
  await using handle = await open(file, "r+");
  const { size } = await handle.stat();
  await handle.write(`${more}],${rest}`, size - END.length);
}
