import { CribError } from "../error.ts";
import { prepareCommand } from "./command.ts";
import type { Core } from "./core.ts";

export interface SyncResult {
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

/**
 * Runs a command in a running container and waits for its end.
 *
 * @param request.timeoutSeconds 0 waits for ever; after it the command is killed.
 * @param request.signal aborted: whoever wanted the answer has gone, and the command is killed.
 * @throws CribError InvalidArgument, NotFound, FailedPrecondition (not running, or the command cannot
 *   be run), DeadlineExceeded, Canceled.
 */
export async function execSync(
  core: Core,
  request: {
    containerId: string;
    command: readonly string[];
    timeoutSeconds: number;
    signal: AbortSignal;
  },
): Promise<SyncResult> {
  const { timeoutSeconds, signal } = request;
  const name = JSON.stringify(request.command[0]);
  if (timeoutSeconds < 0) {
    throw new CribError("InvalidArgument", `timeout: ${timeoutSeconds} is negative`);
  }
  const command = prepareCommand(core, request.containerId, request.command, {
    tty: false,
    timeoutMs: Math.min(timeoutSeconds * 1000, LONGEST_TIMEOUT_MS),
  });
  const room = { bytes: core.config.container.exec_output_limit_bytes };
  const stdout = new CappedOutput(room);
  const stderr = new CappedOutput(room);
  const output = {
    stdout: (chunk: Uint8Array) => stdout.add(chunk),
    stderr: (chunk: Uint8Array) => stderr.add(chunk),
  };
  try {
    const result = await command.monitor.exec(command.request, output, signal);
    if (signal.aborted) {
      throw new CribError("Canceled", `command ${name} killed: its caller has gone`);
    }
    if (result.timedOut) {
      const text = `command ${name} timed out: killed after ${timeoutSeconds} s`;
      throw new CribError("DeadlineExceeded", text);
    }
    const { exitCode } = command.check(result, Buffer.from(stderr.bytes()).toString());
    return { stdout: stdout.bytes(), stderr: stderr.bytes(), exitCode };
  } finally {
    command.discard();
  }
}
