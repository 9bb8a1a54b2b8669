import { finished, type Readable, type Writable } from "node:stream";
import type { ProcessStreams } from "../container/streams.ts";
import { messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import type { CommandChannels, Outcome } from "./channels.ts";

export interface CommandRun {
  channels: CommandChannels;
  /** Runs the command, or attaches. */
  start(): Promise<ProcessStreams>;
  /** The exit code is the client's to know: that of a command, not that of an attached container. */
  reportExitCode: boolean;
  /** The daemon ends; the reason is what the client is told. */
  signal: AbortSignal;
}

/**
 * Joins a client's channels with a process's streams until the process has ended or the client is gone.
 */
export async function runCommand({ channels, start, ...run }: CommandRun): Promise<void> {
  const gone = channels.closed.then(() => undefined);
  // Whatever the client sends meanwhile waits in its channel.
  const starting = start();
  const streams = await Promise.race([starting, gone, aborted(run.signal)]).catch(failure);
  if (streams === undefined || "error" in streams) {
    void starting.then((late) => late.close()).catch(() => undefined);
    if (streams !== undefined) await channels.finish(streams);
    await channels.closed;
    return;
  }
  let end: Outcome | undefined;
  try {
    const outcome = join(channels, streams).catch(failure);
    end = await Promise.race([outcome, gone, aborted(run.signal)]);
  } finally {
    // First: nothing may write to the channels while they say farewell.
    streams.close();
  }
  if (end === undefined) log().info("the client went away");
  else await channels.finish("exitCode" in end && !run.reportExitCode ? { exitCode: 0 } : end);
  await channels.closed;
}

function failure(error: unknown): { error: string } {
  return { error: messageOf(error) };
}

function aborted(signal: AbortSignal): Promise<{ error: string }> {
  return new Promise((resolve) => {
    const tell = () => resolve({ error: messageOf(signal.reason) });
    if (signal.aborted) tell();
    else signal.addEventListener("abort", tell, { once: true });
  });
}

/** Resolves when the process has ended and all of its output is in the channels. */
async function join(channels: CommandChannels, streams: ProcessStreams): Promise<Outcome> {
  channels.onResize((size) => streams.resize(size));
  feed(channels.stdin, streams.stdin);
  const outputs = [drain(streams.stdout, channels.stdout), drain(streams.stderr, channels.stderr)];
  const [{ exitCode }] = await Promise.all([streams.ended, ...outputs]);
  return { exitCode };
}

/** Input that the process does not take any more is dropped, so that the connection goes on. */
function feed(from: Readable | undefined, to: Writable | undefined): void {
  if (from === undefined) return;
  if (to === undefined) {
    from.resume();
    return;
  }
  from.pipe(to);
  finished(to, { readable: false }, () => {
    from.unpipe(to);
    from.resume();
  });
  // A client that resets its input has no more of it.
  finished(from, { writable: false }, (error) => {
    if (error) to.end();
  });
}

/** Output that the client does not take any more is dropped, so that the process goes on. */
function drain(from: Readable | undefined, to: Writable | undefined): Promise<void> {
  if (from === undefined) return Promise.resolve();
  if (to === undefined) from.resume();
  else {
    from.pipe(to, { end: false });
    finished(to, { readable: false }, () => {
      from.unpipe(to);
      from.resume();
    });
  }
  return new Promise((resolve) => finished(from, { writable: false }, () => resolve()));
}
