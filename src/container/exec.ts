import { CribError } from "../error.ts";
import { prepareCommand } from "./command.ts";
import type { Core } from "./core.ts";
import type { CommandRequest, ProcessStreams } from "./streams.ts";

/**
 * Runs a command in a running container, with live streams. What becomes of it when these are closed
 * before its end: see `ProcessStreams.close`.
 *
 * @throws CribError InvalidArgument, NotFound, FailedPrecondition, Unimplemented (an old pod).
 */
export async function exec(core: Core, request: CommandRequest): Promise<ProcessStreams> {
  requireStreams(request);
  const { tty, stdin, stdout, stderr } = request;
  const options = { tty, timeoutMs: 0 };
  const command = await prepareCommand(core, request.containerId, request.command, options);
  try {
    const wants = { stdin, stdout, stderr, tty };
    const live = await command.monitor.execLive(command.request, wants, command.consoleSocket);
    const ended = live.ended.then((result) => command.check(result)).finally(command.discard);
    ended.catch(() => undefined);
    return {
      stdin: stdin ? live.io : undefined,
      stdout: stdout ? live.io : undefined,
      stderr: live.stderr,
      resize: live.resize,
      ended,
      close: live.close,
    };
  } catch (error) {
    command.discard();
    throw error;
  }
}

/** @throws CribError InvalidArgument: no stream is asked for, or two that a terminal does not have. */
export function requireStreams({ tty, stdin, stdout, stderr }: CommandRequest): void {
  if (!stdin && !stdout && !stderr) {
    throw new CribError("InvalidArgument", "stdin, stdout and stderr: at least one must be true");
  }
  if (tty && stderr) {
    throw new CribError("InvalidArgument", "stderr: with a tty all output comes on stdout");
  }
}
