/** The part of the conformance run that happens in private namespaces; run.ts starts it. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { focusOf, judge, OVER_WEBSOCKET, readReport } from "./cases.ts";
import { leasedAddresses, prepareHost } from "./node.ts";
import { output } from "./programs.ts";
import { startStandIns } from "./registry.ts";
import type { Answer, Request } from "./request.ts";
import { type Runtime, startOurs, startPeer } from "./runtimes.ts";

/** The whole set takes two minutes; a case that hangs must not hold CI for an hour. */
const critestTimeout = "30m";

async function main(request: Request): Promise<Answer> {
  prepareHost();
  const registry = await startStandIns();
  try {
    const runtime = await (request.peer === undefined
      ? startOurs(request.directory)
      : startPeer(request.peer, request.directory));
    try {
      const answer = await runCritest(request, runtime, { name: "" });
      const streaming = request.chosen.filter(({ group }) => group === "Streaming");
      if (streaming.length > 0 && request.peer === undefined) {
        const again = { ...request, chosen: streaming };
        const second = await runCritest(again, runtime, {
          name: "websocket",
          flags: OVER_WEBSOCKET,
        });
        answer.judged.push(...second.judged);
      }
      answer.problems.push(...podsLeft(request, runtime));
      return answer;
    } finally {
      await runtime.stop();
      writeFileSync(join(request.logs, "runtime.log"), runtime.log());
    }
  } finally {
    await registry.stop();
  }
}

interface Round {
  /** Told behind each case, and in its files' names; "" for the first round. */
  name: string;
  flags?: readonly string[];
}

async function runCritest(
  request: Request,
  runtime: Runtime,
  { name, flags = [] }: Round,
): Promise<Answer> {
  const suffix = name && `-${name}`;
  const report = join(request.logs, `report${suffix}.json`);
  const child = Bun.spawn(
    [
      request.programs.critest,
      ...["-config", request.crictlConfig],
      ...["-runtime-endpoint", runtime.endpoint, "-image-endpoint", runtime.endpoint],
      ...(request.handler === "" ? [] : ["-runtime-handler", request.handler]),
      ...["-ginkgo.no-color", `-ginkgo.timeout=${critestTimeout}`, "-test.timeout=0"],
      ...[`-ginkgo.json-report=${report}`, `-ginkgo.focus=${focusOf(request.chosen)}`],
      ...flags,
    ],
    {
      cwd: request.directory,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, TMPDIR: request.directory },
    },
  );
  const log = Bun.file(join(request.logs, `critest${suffix}.log`)).writer();
  const decoder = new TextDecoder();
  let done = 0;
  for await (const chunk of child.stdout) {
    log.write(chunk);
    done += decoder.decode(chunk, { stream: true }).match(/\[[\d.]+ seconds\]$/gm)?.length ?? 0;
    if (process.stdout.isTTY) process.stdout.write(`\r  ${done} of ${request.chosen.length} cases`);
  }
  if (process.stdout.isTTY) process.stdout.write("\r\x1b[K");
  log.write(await new Response(child.stderr).text());
  await log.end();
  await child.exited;
  const { seed, cases } = readReport(readFileSync(report, "utf8"));
  const judged = judge(request.chosen, cases);
  for (const it of judged)
    if (name !== "") it.case = { ...it.case, name: `${it.case.name} (${name})` };
  return { judged, seed, problems: [] };
}

/** critest removes its pods; one that stays, or keeps its address, was not removed wholly. */
function podsLeft(request: Request, runtime: Runtime): string[] {
  const crictl = [request.programs.crictl, "--config", request.crictlConfig];
  const endpoint = ["--runtime-endpoint", runtime.endpoint, "--image-endpoint", runtime.endpoint];
  const pods = output([...crictl, ...endpoint, "pods", "-q"])
    .split("\n")
    .filter(Boolean);
  const leases = leasedAddresses(join(request.directory, "cni"));
  return [
    ...pods.map((id) => `left pod: ${id}`),
    ...(pods.length === 0 ? leases.map((it) => `left address: ${it}`) : []),
  ];
}

const [file = ""] = process.argv.slice(2);
const request: Request = JSON.parse(readFileSync(file, "utf8"));
writeFileSync(request.answer, JSON.stringify(await main(request)));
