/** The daemon's side of `crib inherit-directories`. */
import { dirname } from "node:path";
import { CribError } from "../error.ts";
import type { Capability } from "../linux/capabilities.ts";
import { haveSameAttributes, type InheritOptions } from "../storage/inherit-directories.ts";
import type { ChildCommand } from "./confined-child.ts";
import { throwIfAborted } from "./http.ts";

const STDERR_LIMIT = 2000;
/** SYS_ADMIN: trusted.* extended attributes. */
const CAPABILITIES: readonly Capability[] = [
  ...(["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETFCAP", "SYS_ADMIN"] as const),
];
/** It writes back to disk in the end. */
const DEADLINE_MS = 15 * 60 * 1000;

export interface Unmentioned {
  /** Directories that an archive has files in, but no entry for; some may have got theirs later. */
  implied: number;
  /** Whether it has an entry for the layer's root. */
  hasRoot: boolean;
}

/**
 * Gives a layer's directories what those of the layers below have. Mostly there is nothing to do: the archives
 * that engines make mention all of their directories but the root, and that is the same in all layers.
 *
 * @throws CribError Canceled; ResourceExhausted: the disk is full; DeadlineExceeded; Internal.
 */
export async function inheritInChild(
  { implied, hasRoot }: Unmentioned,
  options: InheritOptions & { child: ChildCommand; what: string },
  signal: AbortSignal,
): Promise<void> {
  const { layer, indexFile, below, child: command, what } = options;
  const [nearest] = below;
  if (nearest === undefined) return;
  if (implied === 0 && (hasRoot || haveSameAttributes(layer, nearest))) return;
  throwIfAborted(signal);
  const child = Bun.spawn({
    cmd: command({ capabilities: CAPABILITIES, root: layer }, [
      ...["inherit-directories", "--layer", layer, "--index", indexFile],
    ]),
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", SQLITE_TMPDIR: dirname(indexFile) },
    cwd: "/",
    stdio: [Buffer.from(below.join("\n")), "ignore", "pipe"],
    timeout: DEADLINE_MS,
    killSignal: "SIGKILL",
  });
  const abort = () => child.kill("SIGKILL");
  signal.addEventListener("abort", abort, { once: true });
  try {
    const stderr = await new Response(child.stderr).text();
    const exitCode = await child.exited;
    throwIfAborted(signal);
    if (exitCode === 0) return;
    const why = `${child.signalCode ?? `exit code ${exitCode}`} ${stderr}`.trim();
    const code = /\b(?:ENOSPC|EDQUOT)\b/.test(stderr) ? "ResourceExhausted" : "Internal";
    throw new CribError(code, `${what}: crib inherit-directories: ${why.slice(0, STDERR_LIMIT)}`);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
