/**
 * Random tests for longer than `npm test` gives them, each in a process of its own, as many at once as
 * there are processors:
 *
 *   npm run fuzz
 *   CRIB_FUZZ_SECONDS=600 npm run fuzz -- tar      # only those with this in their names, for longer
 *   CRIB_FUZZ_SEED=123 npm run fuzz                # what a failure has printed, again
 *
 * The last line of stdout is `N passed, N failed`.
 */
import { randomInt } from "node:crypto";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { exitStatus, summaryLine } from "./runner/result.ts";

interface Job {
  name: string;
  file: string;
  /** Of the file's tests, those with names that match. */
  pattern: string;
  seconds: number;
}

/** What reads bytes that anybody may have written. */
const PARSERS = ["tar", "reference", "manifest", "JSON", "challenge", "registries.conf"];
const OTHERS = [
  "image-policy",
  "monitor-fuzz",
  "streaming-spdy-frames",
  "streaming-spdy-session",
  "streaming-websocket-frames",
  "streaming-websocket-port-forward",
];
const JOBS: Job[] = [
  { name: "user-file", file: "spec-user", pattern: "any content", seconds: 8 },
  ...PARSERS.map((name) => ({ name, file: "image-fuzz", pattern: `${name}[:,] `, seconds: 60 })),
  ...OTHERS.map((file) => ({ name: file, file, pattern: ".", seconds: 8 })),
];

const seed = process.env.CRIB_FUZZ_SEED ?? String(randomInt(2 ** 31));

async function run({ name, file, pattern, seconds }: Job): Promise<boolean> {
  const fuzzSeconds = Number(process.env.CRIB_FUZZ_SECONDS ?? seconds);
  const limitMs = String(fuzzSeconds * 1000 + 60_000);
  const child = Bun.spawn(
    [
      ...[process.execPath, "test", `test/unit/${file}.test.ts`],
      ...["--test-name-pattern", pattern, "--timeout", limitMs],
    ],
    {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, CRIB_FUZZ_SECONDS: String(fuzzSeconds), CRIB_FUZZ_SEED: seed },
    },
  );
  const [stdout, stderr, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  // A name that matches nothing would prove nothing.
  const good = status === 0 && /^ *[1-9]\d* pass$/m.test(stderr);
  console.log(
    `${good ? "✓" : "✗"} ${name}${good ? "" : `\nCRIB_FUZZ_SEED=${seed}\n${stdout}${stderr}`}`,
  );
  return good;
}

process.chdir(join(import.meta.dir, ".."));
const wanted = process.argv.slice(2);
const queue = JOBS.filter(
  ({ name }) => wanted.length === 0 || wanted.some((part) => name.includes(part)),
);
const counts = { passed: 0, failed: 0, skipped: 0 };
console.log(`CRIB_FUZZ_SEED=${seed}`);
const work = async () => {
  for (let job = queue.shift(); job !== undefined; job = queue.shift()) {
    counts[(await run(job)) ? "passed" : "failed"] += 1;
  }
};
await Promise.all(Array.from({ length: availableParallelism() }, work));
console.log(summaryLine(counts));
process.exitCode = exitStatus(counts);
