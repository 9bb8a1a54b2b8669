/**
 * Measures what hostile pods, images and clients cost the daemon: its anonymous memory, and how long
 * others wait for an answer.
 *
 *   npm run bench:hostile -- [--seconds N] [--only NAME,... ] [--links N] [--json FILE]
 *
 * Each load alone, then all of them at once. Exit status 1 when a budget is missed. Run it on a machine
 * that does nothing else.
 */
import { parseArgs } from "node:util";
import * as v from "valibot";
import { type ArenaOptions, startArena } from "../fixtures/hostile/arena.ts";
import { besiege, LOADS, prepare } from "../fixtures/hostile/loads.ts";
import { until } from "../fixtures/until.ts";
import { type Figure, table, verdict } from "./figures.ts";
import { MemoryObservation, type Observation, VersionObservation } from "./observation.ts";

const ALL = "all at once";
const { values: options } = parseArgs({
  options: {
    seconds: { type: "string", default: "10" },
    only: { type: "string", default: [...Object.keys(LOADS), ALL].join() },
    links: { type: "string", default: "500000" },
    json: { type: "string" },
  },
});
const MEMORY_LIMIT = { value: 150_000_000 / 1024, text: "150 MB" };
const VERSION_LIMIT = { value: 50, text: "absolute" };
/** A load that gets no round done in this time is measured as far as it came. */
const ROUND_LIMIT_MS = 60_000;

interface Result extends Observation {
  rounds: Record<string, number>;
  answers: Record<string, number>;
  failures: string[];
}

const say = (text: string) => process.stderr.write(`bench: ${text}\n`);

/** Another process that watches the daemon; `end` tells what it saw. */
async function startObserver<T>(
  what: "memory" | "version",
  of: string,
  schema: v.GenericSchema<T>,
) {
  const observer = [process.execPath, `${import.meta.dir}/observer.ts`, what, of];
  // The daemon's answers are measured, not how long who asks for them waits for a processor.
  const argv = what === "version" ? ["chrt", "--rr", "1", ...observer] : observer;
  const child = Bun.spawn(argv, { stdio: ["pipe", "pipe", "inherit"], detached: true });
  const reader = child.stdout.getReader();
  await reader.read();
  return {
    async end(): Promise<T> {
      await child.stdin.end();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += new TextDecoder().decode(value);
      }
      return v.parse(schema, JSON.parse(text));
    },
  };
}

async function measure(names: readonly string[]): Promise<Result> {
  const set = { "log.level": "warn" };
  const arenaOptions: ArenaOptions = { links: Number(options.links), set };
  const arena = await startArena(arenaOptions);
  try {
    const attacks = await prepare(arena, names);
    const { pid, socket } = arena.node.crib;
    const observers = await Promise.all([
      startObserver("memory", String(pid), MemoryObservation),
      startObserver("version", socket, VersionObservation),
    ]);
    const siege = besiege(attacks);
    const enough = Bun.sleep(Number(options.seconds) * 1000);
    const all = () =>
      siege.failures.length > 0 || [...siege.rounds.values()].every((count) => count > 0);
    await until("a round of each load", all, ROUND_LIMIT_MS).catch(() => undefined);
    await enough;
    await siege.end();
    const [memory, version] = await Promise.all([observers[0].end(), observers[1].end()]);
    return {
      ...memory,
      ...version,
      rounds: Object.fromEntries(siege.rounds),
      answers: Object.fromEntries(arena.answers),
      failures: siege.failures.map(({ message }) => message),
    };
  } finally {
    await arena.stop();
  }
}

function figuresOf(name: string, { daemonKib, childrenKib, versionMs, lateMs }: Result): Figure[] {
  const figure = (
    what: string,
    unit: Figure["unit"],
    crib: number,
    limit?: Figure["limit"],
  ): Figure => ({ name: what, unit, crib, peers: {}, limit });
  return [
    figure(`${name}: the daemon's memory`, "KiB", daemonKib, MEMORY_LIMIT),
    figure("  its children's memory", "KiB", childrenKib),
    figure("  Version meanwhile, p99", "ms", versionMs.p99, VERSION_LIMIT),
    figure("  Version meanwhile, the longest", "ms", versionMs.longest),
    figure("  the observer itself, p99", "ms", lateMs.p99),
  ];
}

const results: Record<string, Result> = {};
for (const name of options.only.split(",")) {
  say(name);
  const result = await measure(name === ALL ? Object.keys(LOADS) : [name]);
  say(JSON.stringify(result));
  results[name] = result;
}
const figures = Object.entries(results).flatMap(([name, result]) => figuresOf(name, result));
process.stdout.write(`${table(figures)}\n`);
if (options.json !== undefined)
  await Bun.write(options.json, JSON.stringify(results, undefined, 2));
const failed =
  figures.some((figure) => verdict(figure) === false) ||
  Object.values(results).some(
    ({ failures, versionMs }) => failures.length > 0 || versionMs.failed > 0,
  );
process.exit(failed ? 1 : 0);
