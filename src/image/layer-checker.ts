/** The daemon's side of `crib check-layers`. */
import * as v from "valibot";
import { CribError } from "../error.ts";
import type { ChildCommand, Confinement } from "./confined-child.ts";
import { throwIfAborted } from "./http.ts";

export interface LayerCheckOptions {
  child: ChildCommand;
  /** `<root>/layers` and `<root>/layer-index`. */
  layers: string;
  indexes: string;
  /** Not into files. */
  fast: boolean;
}

export interface CheckedLayer {
  /** Of its directory. */
  name: string;
  /** At most ten. */
  problems: string[];
}

const checkedSchema = v.object({ name: v.string(), problems: v.array(v.string()) });
const STDERR_LIMIT = 2000;

/** `/layers`, which it reads, and `/indexes`, where it also notes things. */
export function checkConfinement({
  layers,
  indexes,
}: Record<"layers" | "indexes", string>): Confinement {
  return {
    // The second for extended attributes trusted.*.
    capabilities: ["DAC_READ_SEARCH", "SYS_ADMIN"],
    root: layers,
    mounts: [
      { source: layers, name: "layers" },
      { source: indexes, name: "indexes", writable: true },
    ],
  };
}

/**
 * Compares the layers with their lists of files, one after the other.
 *
 * @throws CribError Canceled; Internal: it could not be found out (no space for what it has to note).
 */
export async function* checkLayers(
  names: readonly string[],
  { child: command, layers, indexes, fast }: LayerCheckOptions,
  signal: AbortSignal,
): AsyncGenerator<CheckedLayer, void, void> {
  const child = Bun.spawn({
    cmd: command(checkConfinement({ layers, indexes }), [
      "check-layers",
      ...["--root", layers],
      ...(fast ? ["--fast"] : []),
    ]),
    // Notes of layers with very many files go where the lists are.
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", SQLITE_TMPDIR: "/indexes" },
    cwd: "/",
    stdio: [Buffer.from(names.join("\n")), "pipe", "pipe"],
  });
  const abort = () => child.kill("SIGKILL");
  signal.addEventListener("abort", abort, { once: true });
  try {
    throwIfAborted(signal);
    const stderr = new Response(child.stderr).text();
    yield* linesOf(child.stdout);
    const exitCode = await child.exited;
    throwIfAborted(signal);
    if (exitCode === 0) return;
    const why = `${child.signalCode ?? `exit code ${exitCode}`} ${await stderr}`.trim();
    throw new CribError("Internal", `crib check-layers: ${why.slice(0, STDERR_LIMIT)}`);
  } finally {
    signal.removeEventListener("abort", abort);
    abort();
  }
}

async function* linesOf(
  stream: ReadableStream<Uint8Array>,
): AsyncGenerator<CheckedLayer, void, void> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) {
    text += decoder.decode(chunk, { stream: true });
    const lines = text.split("\n");
    text = lines.pop() ?? "";
    for (const line of lines) yield v.parse(checkedSchema, JSON.parse(line));
  }
}
