import type { Readable, Writable } from "node:stream";

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
  /** `end()` half-closes: the process reads the end of its input. */
  readonly stdin: Writable | undefined;
  /** With a terminal, all output. */
  readonly stdout: Readable | undefined;
  readonly stderr: Readable | undefined;
  /** May come before the process exists; the last one counts. Nothing happens without a terminal. */
  resize(size: TerminalSize): void;
  /**
   * Resolves when the process has ended (an attach: the container, with its exit code) and all of its
   * output is in the streams; rejects with a CribError when it could not be run.
   */
  readonly ended: Promise<{ exitCode: number }>;
  /** The client is done or gone: gives back all that the streams hold. Idempotent. */
  close(): void;
}
