/**
 * What continuous integration runs: `npm run check`, a build for arm64 too, `npm test` with `npm run fuzz`
 * beside it, and the node tests. It needs Go: without it much would be skipped. The last line of stdout is
 * the sum: `N passed, N failed` with `, N skipped` when some were; the lines before it repeat what failed
 * and tell what each part took.
 */
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { requireGo } from "./conformance/programs.ts";
import { failuresIn } from "./runner/failures.ts";
import { add, type Counts, exitStatus, readSummary, summaryLine } from "./runner/result.ts";

process.chdir(join(import.meta.dir, ".."));

const machines = String(Math.min(2, availableParallelism()));
const took: string[] = [];
const failures: string[] = [];

/**
 * Runs a part and passes on what it prints, at once or when it has ended; the counts of its last line,
 * undefined when it has none.
 */
async function run(
  name: string,
  command: string[],
  print: "at once" | "at the end" = "at once",
): Promise<Counts | undefined> {
  if (print === "at once") console.log(`\n${name}`);
  const started = performance.now();
  const child = Bun.spawn(command, { stdio: ["ignore", "pipe", "inherit"] });
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of child.stdout) {
    if (print === "at once") process.stdout.write(chunk);
    text += decoder.decode(chunk, { stream: true });
  }
  const status = await child.exited;
  if (print === "at the end") console.log(`\n${name}\n${text.trimEnd()}`);
  const minutes = ((performance.now() - started) / 60_000).toFixed(1);
  took.push(`${name}: ${minutes} min`);
  const counts = readSummary(text);
  if (status !== 0) failures.push(`\n${name} failed:`, ...failuresIn(text));
  if (counts !== undefined && (status === 0) === (exitStatus(counts) === 0)) return counts;
  return status === 0 ? { passed: 0, failed: 0, skipped: 0 } : undefined;
}

async function main(): Promise<Counts> {
  const broken: Counts = { passed: 0, failed: 1, skipped: 0 };
  try {
    requireGo();
  } catch (error) {
    console.log(error instanceof Error ? error.message : String(error));
    return broken;
  }
  if ((await run("npm run check", ["npm", "run", "--silent", "check"])) === undefined) {
    console.log("npm run check failed: no test ran");
    return broken;
  }
  // It checks by itself that executables and helpers are for their processors.
  const build = ["npm", "run", "--silent", "build", "--", "--arm64"];
  if ((await run("npm run build -- --arm64", build)) === undefined) {
    console.log("the build failed: no test ran");
    return broken;
  }
  // The tests mostly wait; what is random takes only the time that they leave.
  const fuzz = ["nice", "-n", "19", "npm", "run", "--silent", "fuzz"];
  const fuzzed = run("npm run fuzz", fuzz, "at the end");
  const host = (await run("npm test", ["npm", "test", "--silent"])) ?? broken;
  const random = (await fuzzed) ?? broken;
  // Without a build there is nothing to carry into a machine.
  if (host.passed === 0) return add(host, random);
  const nodeTests = ["npm", "run", "--silent", "test:node", "--", "--machines", machines];
  return add(add(host, random), (await run("npm run test:node", nodeTests)) ?? broken);
}

const total = await main();
for (const line of failures) console.log(line);
console.log(`\n${took.join(", ")}`);
console.log(summaryLine(total));
process.exitCode = exitStatus(total);
