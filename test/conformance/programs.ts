/** The programs that conformance runs: built once for each content of go.mod and kept in the cache. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";

export const repository = join(import.meta.dir, "../..");
export const cache = join(repository, "test/.cache");

export interface Programs {
  critest: string;
  crictl: string;
}

/** Says in its message what to install. */
export class GoMissing extends Error {}

/** Fails with GoMissing when there is no Go, or one that is too old for cri-tools. */
export function requireGo(): void {
  const go = Bun.which("go");
  const how = "install Go 1.26 or newer (https://go.dev/dl, then put go on PATH)";
  if (go === null)
    throw new GoMissing(`Go is needed to build critest, the kubelet and clients: ${how}`);
  const version = /go(\d+)\.(\d+)/.exec(output([go, "version"]));
  if (version === null || Number(version[1]) < 1 || Number(version[2]) < 26) {
    throw new GoMissing(`a newer Go than ${version?.[0] ?? "this one"} is needed: ${how}`);
  }
}

const module = join(import.meta.dir, "critest");

/** Where `buildPrograms` puts them. */
export function programPaths(): Programs {
  const hash = hashOf(["go.mod", "go.sum"].map((it) => join(module, it)));
  const directory = join(cache, `cri-tools-${hash}`);
  return { critest: join(directory, "critest"), crictl: join(directory, "crictl") };
}

/** Builds critest and crictl from the sources that test/conformance/critest pins. */
export function buildPrograms(): Programs {
  const programs = programPaths();
  if (existsSync(programs.critest) && existsSync(programs.crictl)) return programs;
  requireGo();
  const directory = dirname(programs.critest);
  const staging = `${directory}.${process.pid}`;
  mkdirSync(staging, { recursive: true });
  const env = { ...process.env, CGO_ENABLED: "0" };
  const cmd = "sigs.k8s.io/cri-tools/cmd";
  const build = (verb: string[], name: string) =>
    retry(() => output(["go", ...verb, "-o", join(staging, name), `${cmd}/${name}`], module, env));
  build(["test", "-c"], "critest");
  build(["build"], "crictl");
  rmSync(directory, { recursive: true, force: true });
  renameSync(staging, directory);
  return programs;
}

/** Runs a command and returns what it printed; throws with its messages when it fails. */
export function output(
  command: string[],
  cwd = repository,
  env: Record<string, string | undefined> = process.env,
): string {
  const child = Bun.spawnSync(command, {
    cwd,
    env,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  if (child.exitCode !== 0) {
    throw new Error(`${command.join(" ")} failed (${child.exitCode}):\n${child.stderr.toString()}`);
  }
  return child.stdout.toString();
}

/** For work that downloads: tried twice more when it fails, since a registry may not answer for a moment. */
export function retry<T>(work: () => T): T {
  for (const pauseMs of [5_000, 20_000]) {
    try {
      return work();
    } catch (error) {
      console.log(`${error instanceof Error ? error.message : error}\ntrying again`);
      Bun.sleepSync(pauseMs);
    }
  }
  return work();
}

/** A short name for the content of `files`. */
export function hashOf(files: string[]): string {
  const hash = createHash("sha256");
  for (const file of files) hash.update(readFileSync(file)).update("\0");
  return hash.digest("hex").slice(0, 16);
}
