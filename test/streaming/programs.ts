/** The Go programs that streaming is tested and measured with: built once for each content of theirs. */
import { existsSync, mkdirSync, readdirSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { cache, hashOf, output, requireGo, retry } from "../conformance/programs.ts";

export interface StreamingPrograms {
  /** kubectl's client as a program: see client/main.go. */
  client: string;
  /** CRI-O's and containerd's server as a program: see server/main.go. */
  server: string;
}

const module = import.meta.dir;

/** Where `buildStreamingPrograms` puts them. */
export function streamingProgramPaths(): StreamingPrograms {
  const sources = ["client", "server"].flatMap((name) =>
    readdirSync(join(module, name)).map((file) => join(name, file)),
  );
  const hash = hashOf(["go.mod", "go.sum", ...sources].map((file) => join(module, file)));
  const directory = join(cache, `streaming-${hash}`);
  return { client: join(directory, "client"), server: join(directory, "server") };
}

/** Builds what is not built yet, from the sources that test/streaming pins. @throws GoMissing */
export function buildStreamingPrograms(): StreamingPrograms {
  const programs = streamingProgramPaths();
  const directory = dirname(programs.client);
  if (existsSync(directory)) return programs;
  requireGo();
  const staging = `${directory}.${process.pid}`;
  mkdirSync(staging, { recursive: true });
  const env = { ...process.env, CGO_ENABLED: "0" };
  const build = ["go", "build", "-o", `${staging}/`, "./client", "./server"];
  retry(() => output(build, module, env));
  renameSync(staging, directory);
  return programs;
}

// For what runs without a network afterwards.
if (import.meta.main) buildStreamingPrograms();
