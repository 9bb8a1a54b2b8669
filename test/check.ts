/**
 * `npm run check`: everything that can be said about the code without running it. Each step prints
 * one line, and its own output only when it fails; all steps run.
 */
import { availableParallelism } from "node:os";
import { join } from "node:path";

process.chdir(join(import.meta.dir, ".."));

const bin = (name: string) => join("node_modules/.bin", name);
const cSources = [...new Bun.Glob("{src,test}/**/*.c").scanSync()].sort();
const cFiles = [...cSources, ...new Bun.Glob("{src,test}/**/*.h").scanSync()].sort();
const cFlags = ["-std=c17", "-Wall", "-Wextra", "-Werror", "-Wshadow", "-Isrc/native"];

interface Step {
  name: string;
  command: string[];
  /** For standard input. */
  input?: string;
}

const steps: Step[] = [
  { name: "buf generate", command: [bin("buf"), "generate"] },
  { name: "types (tsc)", command: [bin("tsc"), "--noEmit", "-p", "."] },
  {
    name: "format and lint of TypeScript (biome)",
    command: [bin("biome"), "check", "--error-on-warnings"],
  },
  { name: "contract (buf lint)", command: [bin("buf"), "lint"] },
  { name: "format of the contract", command: [bin("buf"), "format", "--diff", "--exit-code"] },
  {
    name: "import directions",
    command: [process.execPath, "test", "./test/unit/imports-direction.test.ts"],
  },
  ...(cFiles.length > 0
    ? [
        { name: "format of C", command: ["clang-format", "--dry-run", "--Werror", ...cFiles] },
        {
          name: "warnings of C (clang)",
          command: ["clang", ...cFlags, "-fsyntax-only", ...cSources],
        },
        {
          // A process for each file: the analyser is the slowest step.
          name: "static analysis of C (clang)",
          command: ["xargs", "-P", String(availableParallelism()), "-n", "1"].concat(
            ["clang", ...cFlags, "--analyze", "--analyzer-output", "text"],
            ["-Xclang", "-analyzer-werror"],
          ),
          input: cSources.join("\n"),
        },
      ]
    : []),
];

/** buf finds protoc-gen-ts_proto, and clang its tools, on PATH. */
const env = {
  ...process.env,
  PATH: `${join(process.cwd(), "node_modules/.bin")}:${process.env.PATH}`,
};

async function run(step: Step): Promise<boolean> {
  const started = performance.now();
  const child = Bun.spawn(step.command, {
    env,
    stdin: new Blob([step.input ?? ""]),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  const passed = child.exitCode === 0;
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`${passed ? "✓" : "✗"} ${step.name}  ${seconds} s`);
  if (!passed) console.log([stdout, stderr].filter(Boolean).join("\n").trimEnd());
  return passed;
}

let failed = 0;
for (const step of steps) if (!(await run(step))) failed += 1;
console.log(failed === 0 ? "check passed" : `check failed: ${failed} of ${steps.length} steps`);
process.exitCode = failed === 0 ? 0 : 1;
