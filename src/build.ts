/**
 * `npm run build [-- --arm64]`: contract → stubs, C → static helper, TypeScript → one executable.
 * Runs under the pinned Bun; nothing here is part of the product.
 */
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { join, resolve } from "node:path";
import * as v from "valibot";

const top = resolve(import.meta.dir, "..");
const bin = join(top, "node_modules/.bin");

interface Target {
  name: string;
  bun: Bun.Build.CompileTarget;
  /** The npm package of the Bun that goes into the executable. */
  runtime: string;
  /** e_machine of elf(5). */
  machine: number;
  /** Tried in this order: musl gives the smaller helper. */
  compilers: string[];
  output: string;
}

const X64: Target = {
  name: "x86-64",
  bun: "bun-linux-x64",
  runtime: "@oven/bun-linux-x64",
  machine: 62,
  compilers: ["musl-gcc"],
  output: "dist/crib",
};
const ARM64: Target = {
  name: "arm64",
  bun: "bun-linux-arm64",
  runtime: "@oven/bun-linux-aarch64",
  machine: 183,
  compilers: ["aarch64-linux-musl-gcc", "aarch64-linux-gnu-gcc"],
  output: "dist/crib-arm64",
};

/** Of the native helper. */
export const C_FLAGS = [
  ..."-std=c17 -Oz -flto -static -s -Wall -Wextra -Werror -Wshadow".split(" "),
  // Each monitor's mapping holds the tables too, and nothing ever unwinds.
  ..."-fstack-protector-strong -fno-asynchronous-unwind-tables".split(" "),
  // Few pages: -flto, nothing that is not called, small variables side by side, and no page only for
  // relocations, headers or constants.
  ..."-ffunction-sections -fdata-sections -Wl,--gc-sections".split(" "),
  ..."-Wl,--sort-section=alignment -Wl,-z,norelro -Wl,-z,noseparate-code".split(" "),
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

const lockFile = v.object({
  packages: v.record(
    v.string(),
    v.object({ version: v.optional(v.string()), integrity: v.optional(v.string()) }),
  ),
});

/**
 * The Bun that goes into an executable for another processor. npm installs only that of this machine's;
 * it is got from the same registry, in the version and with the digest that package-lock.json pins.
 */
function runtimeOf({ runtime }: Target): string {
  const { packages } = v.parse(
    lockFile,
    JSON.parse(readFileSync(join(top, "package-lock.json"), "utf8")),
  );
  const { version, integrity } = packages[`node_modules/${runtime}`] ?? {};
  const cached = join(top, "node_modules/.cache", `${runtime}-${version}`);
  if (existsSync(cached)) return join(cached, "package/bin/bun");
  const part = `${cached}.part`;
  rmSync(part, { recursive: true, force: true });
  mkdirSync(part, { recursive: true });
  run("npm pack", [
    ...["npm", "pack", "--silent", `${runtime}@${version}`, "--pack-destination", part],
  ]);
  const [archive = ""] = readdirSync(part).map((name) => join(part, name));
  const digest = createHash("sha512").update(readFileSync(archive)).digest("base64");
  if (`sha512-${digest}` !== integrity) {
    console.error(`build: ${runtime}@${version} is not what package-lock.json pins: ${digest}`);
    process.exit(1);
  }
  run("tar", ["tar", "-xzf", archive, "-C", part, "package/bin/bun"]);
  rmSync(archive);
  renameSync(part, cached);
  return join(cached, "package/bin/bun");
}

/** A mixed-up compiler or runtime must not be noticed on somebody's node. */
function checkMachine(file: string, { name, machine }: Target): void {
  const found = readFileSync(file).readUInt16LE(18);
  if (found === machine) return;
  console.error(`build: ${file} is not for ${name}: its ELF machine is ${found}, not ${machine}`);
  process.exit(1);
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
  checkMachine(`${output}.new`, target);
  renameSync(`${output}.new`, output);
}

function compile(target: Target): void {
  run("bun build", [
    join(bin, "bun"),
    ..."build --compile --minify --bytecode --splitting --format=esm".split(" "),
    ..."--no-compile-autoload-dotenv --no-compile-autoload-bunfig".split(" "),
    `--target=${target.bun}`,
    ...(target.bun === `bun-linux-${process.arch}`
      ? []
      : [`--compile-executable-path=${runtimeOf(target)}`]),
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
    checkMachine(join(top, target.output), target);
    const bytes = statSync(join(top, target.output)).size;
    console.log(`${target.output}: ${(bytes / 1e6).toFixed(0)} MB, ${target.name}`);
  }
}
