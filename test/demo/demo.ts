/**
 * `npm run demo [-- --no-build]`: shows Crib's main job on this machine, and leaves nothing on it.
 *
 * Builds dist/crib when that is older than its sources, then runs the tour (tour.ts) in private
 * namespaces. Whatever happens to the tour, its processes, mounts and network end with the namespaces;
 * its cgroup and its directory are removed here. Ctrl-C ends it at any time.
 */
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { detectCgroups, removeCgroup } from "../../src/linux/cgroup.ts";
import { Steps } from "./steps.ts";

process.chdir(join(import.meta.dir, "../.."));

/** What `npm run build` makes the executable of. */
const SOURCES = ["src/**/*.{ts,c,h}", "proto/**/*.proto", "package*.json", "buf.gen.yaml"];

function isBuilt(): boolean {
  if (!existsSync("dist/crib")) return false;
  const built = statSync("dist/crib").mtimeMs;
  const sources = SOURCES.flatMap((pattern) => [...new Bun.Glob(pattern).scanSync()]);
  return sources.every((file) => file.startsWith("src/gen/") || statSync(file).mtimeMs <= built);
}

async function build(): Promise<string> {
  if (process.argv.includes("--no-build")) return "as it is";
  if (isBuilt()) return "is newer than its sources";
  const child = Bun.spawn([process.execPath, "src/build.ts"], { stdout: "pipe", stderr: "pipe" });
  const output = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  if ((await child.exited) !== 0) throw new Error(`npm run build failed:\n${output.join("\n")}`);
  return `${(statSync("dist/crib").size / 1e6).toFixed(0)} MB, one file`;
}

/**
 * Runs the tour. It has a session of its own, so that Ctrl-C reaches this process only; the tour takes
 * the end of its standard input as the order to stop, and so does not outlive us either.
 */
async function tour(directory: string): Promise<number> {
  const child = Bun.spawn(
    ["bash", "test/isolate.sh", process.execPath, "test/demo/tour.ts", directory],
    {
      stdio: ["pipe", "inherit", "inherit"],
      env: { ...process.env, TMPDIR: directory },
      detached: true,
    },
  );
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => void child.stdin.end());
  }
  return child.exited;
}

async function main(): Promise<number> {
  const steps = new Steps();
  if (process.getuid?.() !== 0) {
    steps.fail("start", new Error("containers need root: sudo npm run demo"));
    return 1;
  }
  try {
    await steps.run("Build dist/crib", build);
  } catch {
    return 1;
  }
  const directory = mkdtempSync(join(tmpdir(), "crib-demo-"));
  try {
    return await tour(directory);
  } finally {
    await removeCgroup(detectCgroups(), `/${basename(directory)}`);
    rmSync(directory, { recursive: true, force: true });
  }
}

process.exitCode = await main();
