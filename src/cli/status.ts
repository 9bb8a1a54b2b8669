import * as v from "valibot";
import { CribError } from "../error.ts";
import { ContainerState } from "../gen/runtime/v1/container_pb.ts";
import { PodSandboxState } from "../gen/runtime/v1/pod_sandbox_pb.ts";
import { connectCri } from "./cri-client.ts";

const DEADLINE_MS = 10_000;

/** What the daemon says of itself in Status's verbose info. */
const infoSchema = v.object({
  version: v.string(),
  pid: v.number(),
  uptimeSeconds: v.number(),
  cgroups: v.object({ version: v.number(), driver: v.string() }),
  handlers: v.array(v.object({ name: v.string(), path: v.string(), problem: v.string() })),
  defaultHandler: v.string(),
  operations: v.array(
    v.object({ object: v.string(), name: v.string(), stage: v.string(), ageMs: v.number() }),
  ),
  pulls: v.array(
    v.object({
      image: v.string(),
      ageMs: v.number(),
      bytes: v.number(),
      totalBytes: v.number(),
      layers: v.number(),
      totalLayers: v.number(),
    }),
  ),
  sessions: v.array(v.object({ kind: v.string(), object: v.string(), ageMs: v.number() })),
  damaged: v.array(v.string()),
});

type Info = v.InferOutput<typeof infoSchema>;

/** Everything `crib status` shows. */
interface Report extends Info {
  conditions: Array<{ type: string; ready: boolean; message: string }>;
  images: { count: number; bytes: number };
  pods: { ready: number; notReady: number };
  containers: { running: number; created: number; exited: number };
}

/**
 * `crib status`: asks the daemon over its socket.
 *
 * @returns the exit status: 0 when all conditions are ready, 1 when not.
 * @throws CribError Unavailable: no daemon answers there.
 */
export async function status(options: { socket: string; json?: boolean }): Promise<number> {
  const report = await ask(options.socket);
  process.stdout.write(options.json ? `${JSON.stringify(report, null, 2)}\n` : render(report));
  return report.conditions.every(({ ready }) => ready) ? 0 : 1;
}

async function ask(socket: string): Promise<Report> {
  const { runtime, image, close } = connectCri(socket, { timeoutMs: DEADLINE_MS });
  try {
    const [state, pods, containers, images, fs] = await Promise.all([
      runtime.status({ verbose: true }),
      runtime.listPodSandbox({}),
      runtime.listContainers({}),
      image.listImages({}),
      image.imageFsInfo({}),
    ]);
    const ready = pods.items.filter(({ state }) => state === PodSandboxState.SANDBOX_READY).length;
    const inState = (wanted: ContainerState) =>
      containers.containers.filter(({ state }) => state === wanted).length;
    return {
      ...v.parse(infoSchema, JSON.parse(state.info.info ?? "{}")),
      conditions: (state.status?.conditions ?? []).map(({ type, status: ok, message }) => ({
        type,
        ready: ok,
        message,
      })),
      images: {
        count: images.images.length,
        bytes: Number(fs.imageFilesystems[0]?.usedBytes?.value ?? 0n),
      },
      pods: { ready, notReady: pods.items.length - ready },
      containers: {
        running: inState(ContainerState.CONTAINER_RUNNING),
        created: inState(ContainerState.CONTAINER_CREATED),
        exited: inState(ContainerState.CONTAINER_EXITED),
      },
    };
  } catch (error) {
    if (!(error instanceof CribError)) throw error;
    throw new CribError("Unavailable", `no crib answers on ${socket}: ${error.message}`);
  } finally {
    close();
  }
}

function render(report: Report): string {
  const running = report.operations.length + report.pulls.length + report.sessions.length;
  const rows: Array<[string, string]> = [
    ["crib", `${report.version}, pid ${report.pid}, up ${duration(report.uptimeSeconds * 1000)}`],
    ...report.conditions.map(({ type, ready, message }): [string, string] => [
      type,
      ready ? "yes" : `no: ${message}`,
    ]),
    ["cgroups", `v${report.cgroups.version}, driver ${report.cgroups.driver}`],
    ...report.handlers.map(({ name, path, problem }): [string, string] => [
      `handler ${name}`,
      problem === ""
        ? path + (name === report.defaultHandler ? " (default)" : "")
        : `no: ${problem}`,
    ]),
    ["images", `${report.images.count}, ${megabytes(report.images.bytes)} MB on disk`],
    ["pods", `${report.pods.ready} ready, ${report.pods.notReady} not ready`],
    [
      "containers",
      `${report.containers.running} running, ${report.containers.created} created, ` +
        `${report.containers.exited} exited`,
    ],
    ...report.damaged.map((row): [string, string] => ["damaged", row]),
    ["operations", running === 0 ? "none running" : ""],
  ];
  const width = Math.max(...rows.map(([label]) => label.length)) + 2;
  const lines = rows.map(([label, text]) => `${label.padEnd(width)}${text}`.trimEnd());
  for (const pull of report.pulls) {
    const bytes = `${megabytes(pull.bytes)} of ${megabytes(pull.totalBytes)} MB`;
    const layers = `${pull.layers} of ${pull.totalLayers} layers`;
    lines.push(`  pull ${pull.image}  ${bytes}, ${layers}  ${duration(pull.ageMs)}`);
  }
  for (const { object, name, stage, ageMs } of report.operations) {
    lines.push(`  ${name} ${object.slice(0, 30)}  ${stage}  ${duration(ageMs)}`);
  }
  for (const { kind, object, ageMs } of report.sessions) {
    lines.push(`  ${kind} ${object.slice(0, 30)}  connected  ${duration(ageMs)}`);
  }
  return `${lines.join("\n")}\n`;
}

const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);

function duration(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  if (ms > 0 && seconds < 1) return `${ms} ms`;
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h`;
}
