/**
 * Measures pulls: Crib beside Debian's containerd and skopeo + umoci, from a registry on loopback.
 *
 *   npm run bench:images -- [--rounds N] [--json FILE] [--only big,ten,...]
 *
 * Every pull meets a fresh store, in turns. Exit status 1 when a budget is missed. Where the file
 * system below TMPDIR has no journal, all stores are on one that has (`journaled.ts`).
 */
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { constants } from "node:zlib";
import type { CriClients } from "../../src/cli/cri-client.ts";
import { startCrib } from "../fixtures/crib.ts";
import { type ImageSpec, pushImage, startRegistry } from "../fixtures/registry.ts";
import { type TarSpec, tarball } from "../fixtures/tar.ts";
import { startContainerd } from "./containerd.ts";
import { type Figure, median, percentile, table, timed, verdict } from "./figures.ts";
import { journaledDirectory } from "./journaled.ts";
import { pssKib } from "./memory.ts";

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    json: { type: "string" },
    only: { type: "string", default: "big,ten,small,zstd,huge,window" },
  },
});
const rounds = Number(options.rounds);
const MB = 1_000_000;
const SAMPLE_MS = 10;
const MEMORY_LIMIT_KIB = (200 * MB) / 1024;
/** Of which the largest peak counts. */
const MEMORY_ROUNDS = 3;
const STALL_LIMIT_MS = 50;
const LIMITS: Record<string, number> = { big: 0.6, ten: 0.6, small: 0.6, zstd: 0.9 };
const NAMES: Record<string, string> = {
  big: "one layer of 200 MB, gzip",
  ten: "ten layers of 20 MB, gzip",
  small: "20,000 small files, gzip",
  zstd: "one layer of 200 MB, zstd",
  huge: "eight layers of 200 MB, zstd",
  window: "eight layers of 60 MB, zstd with windows of 32 MiB",
};
/** Only their memory and stalls are measured. */
const UNTIMED = new Set(["huge", "window"]);

const LARGE_WINDOW = {
  [constants.ZSTD_c_windowLog]: 25,
  [constants.ZSTD_c_compressionLevel]: 1,
};

const say = (text: string) => process.stderr.write(`bench: ${text}\n`);
const journaled = journaledDirectory("crib-bench-images-");
const directory = journaled.path;

/** Half noise, half text: it compresses to about the half, as programs do. */
function content(bytes: number, seed: string): Buffer {
  const text = Buffer.from(createHash("sha256").update(seed).digest("hex").repeat(8));
  const parts: Buffer[] = [];
  for (let made = 0; made < bytes; made += 2 * text.length)
    parts.push(randomBytes(text.length), text);
  return Buffer.concat(parts).subarray(0, bytes);
}

const files = (count: number, bytes: number, seed: string): TarSpec[] =>
  Array.from({ length: count }, (_, index) => ({
    name: `${seed}/${index % 100}/file-${index}`,
    data: content(bytes, `${seed}${index}`),
  }));

const IMAGES: Record<string, () => ImageSpec> = {
  big: () => ({ layers: [tarball(files(200, MB, "big"))] }),
  ten: () => ({
    layers: Array.from({ length: 10 }, (_, index) => tarball(files(20, MB, `ten-${index}`))),
  }),
  small: () => ({ layers: [tarball(files(20_000, 4096, "small"))] }),
  zstd: () => ({ layers: [tarball(files(200, MB, "zstd"))], compression: "zstd" }),
  huge: () => ({
    layers: Array.from({ length: 8 }, (_, index) => tarball(files(200, MB, `huge-${index}`))),
    compression: "zstd",
  }),
  window: () => ({
    layers: Array.from({ length: 8 }, (_, index) => tarball(files(60, MB, `window-${index}`))),
    compression: "zstd",
    zstdParams: LARGE_WINDOW,
  }),
};

interface Daemon extends CriClients {
  pid: number;
  stop(): Promise<unknown>;
}
const start: Record<string, (where: string, image: string) => Promise<Daemon>> = {
  crib: (where) => startCrib({ directory: where }),
  containerd: startContainerd,
};

/** Runs `body` with a fresh daemon that has answered before. */
async function withDaemon<T>(
  name: string,
  image: string,
  body: (daemon: Daemon) => Promise<T>,
): Promise<T> {
  const where = mkdtempSync(join(directory, `${name}-`));
  const daemon = await start[name]?.(where, image);
  if (daemon === undefined) throw new Error(name);
  try {
    for (let call = 0; call < 20; call++) await daemon.runtime.version({});
    return await body(daemon);
  } finally {
    await daemon.stop();
    rmSync(where, { recursive: true, force: true });
  }
}

const pull = (daemon: Daemon, image: string) => daemon.image.pullImage({ image: { image } });

async function command(...argv: string[]): Promise<void> {
  const child = Bun.spawn(argv, { stdout: "ignore", stderr: "pipe" });
  const stderr = await new Response(child.stderr).text();
  if ((await child.exited) !== 0) throw new Error(`${argv[0]}: ${stderr}`);
}

/** What people do without a daemon; umoci knows no zstd. */
async function skopeoUmoci(image: string): Promise<void> {
  const where = mkdtempSync(join(directory, "umoci-"));
  const layout = join(where, "layout");
  await command(
    "skopeo",
    "copy",
    "-q",
    "--src-tls-verify=false",
    `docker://${image}`,
    `oci:${layout}:x`,
  );
  await command("umoci", "unpack", "--image", `${layout}:x`, join(where, "bundle"));
  rmSync(where, { recursive: true, force: true });
}

const samples: Record<string, Record<string, number[]>> = {};
function keep(what: string, whose: string, value: number): void {
  const of = samples[what] ?? {};
  samples[what] = of;
  of[whose] = [...(of[whose] ?? []), value];
}

function family(pid: number): number[] {
  try {
    const children = readdirSync(`/proc/${pid}/task`).flatMap((task) =>
      readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").trim().split(" ").filter(Boolean),
    );
    return [pid, ...children.flatMap((child) => family(Number(child)))];
  } catch {
    return [];
  }
}

const commandLine = (pid: number) => readFileSync(`/proc/${pid}/cmdline`, "utf8");

/** A child that is no program of its own yet (vfork) has its parent's memory, which counts once. */
function pssOfFamily(pid: number): number {
  return family(pid).reduce((sum, member) => {
    try {
      const forked = member !== pid && commandLine(member) === commandLine(pid);
      return forked ? sum : sum + pssKib(member);
    } catch {
      return sum;
    }
  }, 0);
}

/** The most that the daemon and its children take together while they pull; not timed. */
async function peakKib(name: string, image: string): Promise<number> {
  return withDaemon(name, image, async (daemon) => {
    let peak = 0;
    let done = false;
    const pulled = pull(daemon, image).finally(() => {
      done = true;
    });
    while (!done) {
      peak = Math.max(peak, pssOfFamily(daemon.pid));
      await Bun.sleep(SAMPLE_MS);
    }
    await pulled;
    return peak;
  });
}

/** How long Version takes while an image is pulled. */
async function stalls(name: string, image: string): Promise<number[]> {
  return withDaemon(name, image, async (daemon) => {
    const times: number[] = [];
    let done = false;
    const pulled = pull(daemon, image).finally(() => {
      done = true;
    });
    while (!done) times.push(await timed(() => daemon.runtime.version({})));
    await pulled;
    return times;
  });
}

async function measure(kind: string, image: string): Promise<void> {
  for (let round = 0; round < rounds && !UNTIMED.has(kind); round++) {
    for (const name of ["crib", "containerd"]) {
      const ms = await withDaemon(name, image, (daemon) => timed(() => pull(daemon, image)));
      keep(kind, name, ms);
    }
    if (kind !== "zstd") keep(kind, "skopeo+umoci", await timed(() => skopeoUmoci(image)));
  }
  for (const name of ["crib", "containerd"]) {
    const peaks: number[] = [];
    const times: number[] = [];
    for (let round = 0; round < MEMORY_ROUNDS; round++) {
      peaks.push(await peakKib(name, image));
      times.push(...(await stalls(name, image)));
    }
    keep(`${kind} memory`, name, Math.max(...peaks));
    keep(`${kind} Version`, name, percentile(times, 99));
    keep(`${kind} longest`, name, Math.max(...times));
  }
}

function figures(kinds: readonly string[]): Figure[] {
  const figure = (what: string, name: string, unit: Figure["unit"], limit: Figure["limit"]) => {
    const medians = Object.entries(samples[what] ?? {}).map(([whose, values]) => [
      whose,
      median(values),
    ]);
    const { crib, ...peers } = Object.fromEntries(medians);
    return { name, unit, crib, peers, limit };
  };
  return kinds.flatMap((kind) => {
    const containerd = median(samples[kind]?.containerd ?? []);
    const part = LIMITS[kind] ?? 1;
    const name = NAMES[kind] ?? kind;
    const time = { value: containerd * part, text: `${part} of containerd` };
    return [
      figure(kind, name, "ms", UNTIMED.has(kind) ? undefined : time),
      figure(`${kind} memory`, "  largest memory of all, PSS", "KiB", {
        value: MEMORY_LIMIT_KIB,
        text: "200 MB",
      }),
      figure(`${kind} Version`, "  Version meanwhile, p99", "ms", {
        value: STALL_LIMIT_MS,
        text: "absolute",
      }),
      figure(`${kind} longest`, "  Version meanwhile, the longest", "ms", undefined),
    ];
  });
}

say(`stores are on ${journaled.on}`);
const registry = await startRegistry();
let failed = false;
try {
  const kinds = options.only.split(",");
  for (const kind of kinds) {
    const spec = IMAGES[kind]?.();
    if (spec === undefined) throw new Error(`--only ${kind}`);
    const { name } = await pushImage(registry, `${kind}:1`, spec);
    say(`${NAMES[kind]}: ${rounds} rounds`);
    await measure(kind, name);
  }
  const results = figures(kinds);
  process.stdout.write(`${table(results)}\n`);
  if (options.json !== undefined) {
    await Bun.write(options.json, JSON.stringify({ figures: results, samples }, undefined, 2));
  }
  failed = results.some((figure) => verdict(figure) === false);
} finally {
  await registry.stop();
  journaled.remove();
}
process.exit(failed ? 1 : 0);
