import { CribError } from "../error.ts";
import type { ExecOutput } from "../monitor/types.ts";
import { prepareCommand } from "./command.ts";
import type { Core } from "./core.ts";
import { KeptOutput } from "./exec-output.ts";

/** What a command has said and how it has ended. */
export interface SyncResult {
  /** To be closed when the answer is sent. */
  output: KeptOutput;
  exitCode: number;
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
  const command = await prepareCommand(core, request.containerId, request.command, {
    tty: false,
    timeoutMs: Math.min(timeoutSeconds * 1000, LONGEST_TIMEOUT_MS),
  });
  const kept = new KeptOutput(core.execOutput, {
    limitBytes: core.config.container.exec_output_limit_bytes,
    timeoutMs: timeoutSeconds * 1000,
    command: name,
  });
  const output: ExecOutput = {
    stdout: (chunk, hold) => kept.add(kept.stdout, chunk, hold),
    stderr: (chunk, hold) => kept.add(kept.stderr, chunk, hold),
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
    const { exitCode } = command.check(result, Buffer.from(kept.stderr[0] ?? "").toString());
    return { output: kept, exitCode };
  } catch (error) {
    kept.close();
    throw error;
  } finally {
    command.discard();
  }
}
