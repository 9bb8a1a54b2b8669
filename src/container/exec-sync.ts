import { rmSync } from "node:fs";
import { CribError } from "../error.ts";
import { childEnvironment } from "../linux/command.ts";
import { requireContainer } from "../state/find.ts";
import type { ContainerRecord } from "../state/records.ts";
import type { Core } from "./core.ts";
import { containerPaths } from "./paths.ts";

export interface ExecResult {
  stdout: Uint8Array;
  stderr: Uint8Array;
  exitCode: number;
}

/** Output up to a cap; what comes after it is dropped, the process is not held up. */
class CappedOutput {
  readonly #chunks: Uint8Array[] = [];

  /** Both streams of a command share the room: their sum must fit into one answer. */
  constructor(readonly room: { bytes: number }) {}

  add(chunk: Uint8Array): void {
    const kept = chunk.subarray(0, this.room.bytes);
    if (kept.length > 0) this.#chunks.push(kept.slice());
    this.room.bytes -= kept.length;
  }

  bytes(): Uint8Array {
    return Buffer.concat(this.#chunks);
  }
}

/** What a timer takes: 24 days. */
const LONGEST_TIMEOUT_MS = 2 ** 31 - 1 - 60_000;

let serial = 0;

/**
 * Runs a command in a running container and waits for its end.
 *
 * @param timeoutSeconds 0 waits for ever; after it the command is killed.
 * @throws CribError InvalidArgument, NotFound, FailedPrecondition (not running, or the command cannot
 *   be run), DeadlineExceeded.
 */
export async function execSync(
  core: Core,
  request: { containerId: string; command: readonly string[]; timeoutSeconds: number },
): Promise<ExecResult> {
  const { command, timeoutSeconds } = request;
  const container = requireContainer(core.store, request.containerId);
  if (command.length === 0 || command[0] === "") {
    throw new CribError("InvalidArgument", "cmd is empty");
  }
  if (timeoutSeconds < 0) {
    throw new CribError("InvalidArgument", `timeout: ${timeoutSeconds} is negative`);
  }
  const monitor = core.monitors.get(container.podId);
  const pod = core.store.pods.get(container.podId);
  if (container.phase !== "running" || monitor === undefined || pod === undefined) {
    throw new CribError(
      "FailedPrecondition",
      `container ${container.id} is ${container.phase}, not running`,
    );
  }
  const runtime = core.handlers.existing(pod.handler);
  const files = execFiles(core, container);
  const room = { bytes: core.config.container.exec_output_limit_bytes };
  const stdout = new CappedOutput(room);
  const stderr = new CappedOutput(room);
  try {
    const result = await monitor.exec(
      {
        id: container.id,
        argv: runtime.execArgv(container.id, command, files.pid, files.log),
        env: Object.entries(childEnvironment()).map(([name, value]) => `${name}=${value}`),
        cwd: "/",
        pidFile: files.pid,
        timeoutMs: Math.min(timeoutSeconds * 1000, LONGEST_TIMEOUT_MS),
        drainMs: core.config.container.exec_drain_timeout_seconds * 1000,
      },
      { stdout: (chunk) => stdout.add(chunk), stderr: (chunk) => stderr.add(chunk) },
    );
    if (result.timedOut) {
      throw new CribError(
        "DeadlineExceeded",
        `command ${JSON.stringify(command[0])} timed out: killed after ${timeoutSeconds} s`,
      );
    }
    if (result.runtimeFailed) {
      const why = runtime.readLog(files.log) ?? Buffer.from(stderr.bytes()).toString().trim();
      throw new CribError(
        "FailedPrecondition",
        `cannot run ${JSON.stringify(command[0])} in container ${container.id}: ${why}`,
      );
    }
    return { stdout: stdout.bytes(), stderr: stderr.bytes(), exitCode: result.exitCode };
  } finally {
    // Kept only if the monitor could not take it: a pid file is deleted when it is read.
    for (const file of [files.pid, files.log]) rmSync(file, { force: true });
  }
}

function execFiles(core: Core, container: ContainerRecord) {
  serial += 1;
  const base = `${containerPaths(core, container.id).bundle}/exec-${process.pid}-${serial}`;
  return { pid: `${base}.pid`, log: `${base}.log` };
}
