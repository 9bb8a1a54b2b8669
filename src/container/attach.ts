import { Readable } from "node:stream";
import { CribError } from "../error.ts";
import { requireRunning } from "./command.ts";
import type { Core } from "./core.ts";
import { requireStreams } from "./exec.ts";
import type { CommandRequest, ProcessStreams } from "./streams.ts";

/**
 * Shows a running container's output from now on, and gives it input. With a terminal, which is the
 * container's own or not at all, there is no stderr.
 *
 * The end of a client's input ends its attach, unless the container has a terminal or was made with
 * stdin_once: then the container reads the end, and its last output is still to be seen (as CRI-O does it).
 *
 * @throws CribError InvalidArgument, NotFound, FailedPrecondition (not running, or no stdin to attach to),
 *   Unimplemented (an old pod).
 */
export async function attach(core: Core, request: CommandRequest): Promise<ProcessStreams> {
  requireStreams(request);
  const { container, monitor } = requireRunning(core, request.containerId);
  const { tty, stdinOnce } = container.config;
  if (request.stdin && !container.config.stdin) {
    const text = `container ${container.id} was made without stdin: nothing reads the client's`;
    throw new CribError("FailedPrecondition", text);
  }
  const { stdin, stdout, stderr } = request;
  const live = await monitor.attach(container.id, { stdin, stdout, stderr: stderr && !tty, tty });
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
    stderr: stderr && tty ? Readable.from([]) : live.stderr,
    resize: live.resize,
    ended,
    close: live.close,
  };
}
