import { CribError } from "../error.ts";
import { type Running, requireRunning } from "./command.ts";
import type { Core } from "./core.ts";
import { requireStreams } from "./exec.ts";
import type { CommandRequest, ProcessStreams } from "./streams.ts";

/**
 * Shows a running container's output from now on, and gives it input.
 *
 * The end of a client's input ends its attach, unless the container has a terminal or was made with
 * stdin_once: then the container reads the end, and its last output is still to be seen (as CRI-O does it).
 *
 * @throws CribError as `requireAttachable`, FailedPrecondition (no stdin to attach to), Unimplemented (an old
 *   pod).
 */
export async function attach(core: Core, request: CommandRequest): Promise<ProcessStreams> {
  const { container, monitor } = requireAttachable(core, request);
  const { tty, stdinOnce } = container.config;
  if (request.stdin && !container.config.stdin) {
    const text = `container ${container.id} was made without stdin: nothing reads the client's`;
    throw new CribError("FailedPrecondition", text);
  }
  const { stdin, stdout, stderr } = request;
  const live = await monitor.attach(container.id, { stdin, stdout, stderr, tty });
  const inputEnded = Promise.withResolvers<void>();
  if (stdin && !stdinOnce && !tty) {
    live.io?.once("finish", () => {
      inputEnded.resolve();
      // The output has no end of its own: the container goes on.
      live.close();
    });
  }
  const ended = Promise.race([live.ended, inputEnded.promise]).then(() => ({ exitCode: 0 }));
  ended.catch(() => undefined);
  return {
    stdin: stdin ? live.io : undefined,
    stdout: stdout ? live.io : undefined,
    stderr: live.stderr,
    resize: live.resize,
    ended,
    close: live.close,
  };
}

/**
 * The running container that a client may attach to. The terminal is the container's own or not at all: a
 * client that takes it for another one would not understand what comes.
 *
 * @throws CribError InvalidArgument, NotFound, FailedPrecondition (not running).
 */
export function requireAttachable(core: Core, request: CommandRequest): Running {
  requireStreams(request);
  const running = requireRunning(core, request.containerId);
  const { tty } = running.container.config;
  if (request.tty === tty) return running;
  const text = `tty: ${request.tty}: the container was made with tty ${tty}`;
  throw new CribError("InvalidArgument", text);
}
