/**
 * `npm run build [-- --arm64]`: contract → stubs, C → static helper, TypeScript → one executable.
 * Runs under the pinned Bun; nothing here is part of the product.
 */
import { mkdirSync, readdirSync, renameSync, statSync } from "node:fs";
import { join, resolve } from "node:path";

const top = resolve(import.meta.dir, "..");
const bin = join(top, "node_modules/.bin");

interface Target {
  name: string;
  bun: Bun.Build.CompileTarget;
  /** Tried in this order: musl gives the smaller helper. */
  compilers: string[];
  output: string;
}

const X64: Target = {
  name: "x86-64",
  bun: "bun-linux-x64",
  compilers: ["musl-gcc"],
  output: "dist/crib",
};
const ARM64: Target = {
  name: "arm64",
  bun: "bun-linux-arm64",
  compilers: ["aarch64-linux-musl-gcc", "aarch64-linux-gnu-gcc"],
  output: "dist/crib-arm64",
};

const C_FLAGS = [
  ..."-std=c17 -Oz -static -s -Wall -Wextra -Werror -Wshadow".split(" "),
  // Each monitor's mapping holds the tables too, and nothing ever unwinds.
  ..."-fstack-protector-strong -fno-asynchronous-unwind-tables".split(" "),
  // Few pages: nothing that is not called, small variables side by side, and no page only for relocations.
  ..."-ffunction-sections -fdata-sections -Wl,--gc-sections".split(" "),
  ..."-Wl,--sort-section=alignment -Wl,-z,norelro".split(" "),
];

function run(what: string, argv: string[]): void {
  const { success } = Bun.spawnSync(argv, {
    cwd: top,
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, PATH: `${bin}:${process.env.PATH}` },
  });
  if (!success) {
    console.error(`build: ${what} failed: ${argv.join(" ")}`);
    process.exit(1);
  }
}

/** The contract is linted, and its stubs made anew. */
export function generate(): void {
  run("buf lint", [join(bin, "buf"), "lint"]);
  run("buf generate", [join(bin, "buf"), "generate"]);
}

/** The native helper of one architecture, where `src/monitor/binary.ts` imports it from. */
function compileHelper(target: Target): void {
  const compiler = target.compilers.find((name) => Bun.which(name) !== null);
  if (compiler === undefined) {
    console.error(`build: no C compiler for ${target.name}: install ${target.compilers.at(-1)}`);
    process.exit(1);
  }
  const directory = join(top, "src/native");
  const sources = readdirSync(directory).filter((name) => name.endsWith(".c"));
  mkdirSync(join(top, "dist/native"), { recursive: true });
  const output = join(top, "dist/native/crib-monitor");
  run("native helper", [
    compiler,
    ...C_FLAGS,
    ...sources.map((name) => join(directory, name)),
    ...["-o", `${output}.new`],
  ]);
  renameSync(`${output}.new`, output);
}

function compile(target: Target): void {
  run("bun build", [
    join(bin, "bun"),
    ..."build --compile --minify --bytecode --splitting --format=esm".split(" "),
    ..."--no-compile-autoload-dotenv --no-compile-autoload-bunfig".split(" "),
    `--target=${target.bun}`,
    "src/main.ts",
    `--outfile=${target.output}`,
  ]);
}

if (import.meta.main) {
  const targets = process.argv.includes("--arm64") ? [ARM64, X64] : [X64];
  generate();
  // x86-64 last: `dist/native/crib-monitor` is then the helper that tests on this machine run.
  for (const target of targets) {
    compileHelper(target);
    compile(target);
    const bytes = statSync(join(top, target.output)).size;
    console.log(`${target.output}: ${(bytes / 1e6).toFixed(0)} MB, ${target.name}`);
  }
}
