import type { Readable, Writable } from "node:stream";

/** What a client that execs or attaches asked for when it called the RPC. */
export interface CommandRequest {
  containerId: string;
  /** Empty for an attach. */
  command: readonly string[];
  /** Of an exec; whether a container has a terminal its own configuration says. */
  tty: boolean;
  stdin: boolean;
  stdout: boolean;
  stderr: boolean;
}

/** A terminal's size in character cells. */
export interface TerminalSize {
  columns: number;
  rows: number;
}

/**
 * The live streams of a process in a container: of an exec, or of the container itself to which a
 * client has attached. Each stream that was asked for is there and exerts backpressure: what is not
 * read is not produced, and at most a socket's buffer is held in between.
 */
export interface ProcessStreams {
  /** `end()` half-closes: the process reads the end of its input, unless it has a terminal. */
  readonly stdin: Writable | undefined;
  /** With a terminal, all output. */
  readonly stdout: Readable | undefined;
  readonly stderr: Readable | undefined;
  /** May come before the process exists; the last one counts. Nothing happens without a terminal. */
  resize(size: TerminalSize): void;
  /**
   * Resolves when the process has ended and all of its output is in the streams; rejects with a CribError
   * when it could not be run. An attach ends well when the container does, whatever its exit code: a
   * client that were told of a failure would take it for one of the attach (`kubectl run` then shows the
   * log instead). It rejects with ResourceExhausted when the client took no output for too long.
   */
  readonly ended: Promise<{ exitCode: number }>;
  /**
   * The client is done or gone: gives back all that the streams hold. Idempotent. A process that still
   * runs is not killed: its terminal hangs up, its input ends, and writing fails.
   */
  close(): void;
}
