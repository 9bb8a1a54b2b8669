/** What is asked of a monitor and what it answers. */

/** How a container ended. `exitCode` is 128 + `signal` when a signal ended it (then `signal` > 0). */
export interface ContainerExit {
  id: string;
  exitCode: number;
  signal: number;
  finishedAtNs: bigint;
  oomKilled: boolean;
  /** Bytes of output that are not in the log (a full disk, the rate limit); 0 nearly always. */
  droppedLogBytes: bigint;
  /** false: its monitor died before all of its output was in the log. */
  logComplete?: boolean;
}

/** A container as its monitor knows it. `pid` is 0 while the runtime still creates it. */
export interface ContainerRecord {
  id: string;
  pid: number;
  /** As in its exit; it may grow while the container runs. */
  droppedLogBytes: bigint;
  exit?: ContainerExit;
}

export interface CreateRequest {
  id: string;
  /** The runtime's command line; `argv[0]` is an absolute path. */
  argv: string[];
  /** `NAME=value`; nothing else is in the runtime's environment. */
  env: string[];
  cwd: string;
  /** "" discards the output. */
  logPath: string;
  /** Output beyond this is dropped from the log, which says so; 0 for no limit. */
  logBytesPerSecond: number;
  /** Give the container a stdin that stays open; otherwise it is /dev/null. */
  stdin: boolean;
  stdinOnce: boolean;
  /**
   * With a terminal: the name of the socket in `cwd` that the runtime sends it to. As a name it is short
   * enough for a socket's address, wherever the directory is.
   */
  consoleSocket?: string;
  /** Written by the runtime, read and removed by the monitor. */
  pidFile: string;
  /** The cgroup's memory.events (v2) or memory.oom_control (v1); "" for none. */
  oomFile: string;
  deadlineMs: number;
}

export interface CreateResult {
  /** Of the runtime; 128 + signal when a signal ended it. */
  exitStatus: number;
  /** Of the container's init; 0 when it was not created. */
  pid: number;
  /** Why there is no container, where the runtime itself could not say it in its log. */
  startError?: string;
}

/** What a client wants of a process. With `tty` its output is one: there is no stderr. */
export interface Wants {
  stdin: boolean;
  stdout: boolean;
  stderr: boolean;
  tty: boolean;
}

export interface ExecRequest {
  id: string;
  argv: string[];
  env: string[];
  cwd: string;
  pidFile: string;
  /** From the request to the end of the process; 0 for none. */
  timeoutMs: number;
  /** How long output is awaited after the end, when a descendant holds it open. */
  drainMs: number;
}

/** What the monitor does with a command's output: sends it, leaves it unread, or reads and drops it for good. */
export type Flow = "on" | "held" | "dropped";

/** Asks the monitor for another flow; rejects where it cannot do that: one of an older Crib. */
export type SetFlow = (flow: Flow) => Promise<void>;

/** Takes what a command writes; the chunks are only valid during the call. */
export interface ExecOutput {
  stdout(chunk: Uint8Array, setFlow: SetFlow): void;
  stderr(chunk: Uint8Array, setFlow: SetFlow): void;
}

export interface ExecResult {
  exitCode: number;
  signal: number;
  timedOut: boolean;
  /** The runtime failed before there was a process; `exitCode` is the runtime's. */
  runtimeFailed: boolean;
}
