/** Short-lived child processes: the OCI runtime, busctl, and the like. */
import { existsSync } from "node:fs";
import { place, type Work } from "./priority.ts";

/** What a command did. Output past the cap is dropped; a deadline that passed kills the process group. */
export interface CommandResult {
  exitCode: number;
  stdout: string;
  stderr: string;
  timedOut: boolean;
}

export interface CommandOptions {
  /** Milliseconds until the command is killed. */
  deadlineMs: number;
  /** The whole environment; default: PATH and what systemd's sd_notify and D-Bus callers need. */
  env?: Record<string, string>;
  stdin?: string;
  cwd?: string;
  /**
   * For programs that start others and may hang: a session of its own, so that the deadline's kill
   * reaches them too. Not for all: the scheduler sets sessions apart, which costs time under load.
   */
  ownSession?: boolean;
  /** Default: "prompt". */
  work?: Work;
  /** An open file that the command gets as its descriptor 3. */
  inherit?: number;
  /** Bytes kept of each of stdout and stderr (default 1 MiB); 0: the command gets /dev/null. */
  outputLimitBytes?: number;
}

/** The environment of every child: nothing of Bun's or the daemon's own leaks into it. */
export function childEnvironment(): Record<string, string> {
  const env: Record<string, string> = {
    PATH: process.env.PATH ?? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  };
  for (const name of ["DBUS_SYSTEM_BUS_ADDRESS", "XDG_RUNTIME_DIR"]) {
    const value = process.env[name];
    if (value !== undefined) env[name] = value;
  }
  return env;
}

/** How long after the kill the process and its pipes may take to go; then they are left behind. */
const KILL_GRACE_MS = 2000;

/** Keeps the first bytes of a stream and reads the rest away. */
function capture(stream: ReadableStream<Uint8Array> | undefined, limitBytes: number) {
  if (stream === undefined) return { done: undefined, text: () => "", cancel: () => undefined };
  const reader = stream.getReader();
  const chunks: Uint8Array[] = [];
  let kept = 0;
  const read = async (): Promise<void> => {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const room = limitBytes - kept;
      if (room > 0) chunks.push(value.length > room ? value.slice(0, room) : value);
      kept += Math.min(value.length, Math.max(room, 0));
    }
  };
  return {
    done: read(),
    text: () => Buffer.concat(chunks).toString("utf8"),
    cancel: () => reader.cancel().catch(() => undefined),
  };
}

/** A program that ends without having read its input is no error: its exit code tells. */
function feed(input: Bun.FileSink, text: string): void {
  const ignore = () => undefined;
  try {
    Promise.resolve(input.write(text)).catch(ignore);
    Promise.resolve(input.end()).catch(ignore);
  } catch {
    // The same, told at once.
  }
}

/** With `ownSession` also those that it has started. */
function kill(child: Bun.Subprocess, ownSession: boolean): void {
  const ended = child.exitCode !== null || child.signalCode !== null;
  try {
    // The number of one that has ended stays its group's, while that has members: unless a process has it.
    if (ownSession && !(ended && existsSync(`/proc/${child.pid}`))) {
      process.kill(-child.pid, "SIGKILL");
    }
  } catch {
    // The group is gone.
  }
  child.kill("SIGKILL");
}

/**
 * Runs a command to its end, never through a shell. Returns soon after the deadline in any case, also when
 * the process cannot die, or when one that left its group holds the pipes.
 *
 * @throws what `Bun.spawn` throws when the program is missing or not executable (`code` ENOENT, EACCES).
 */
export async function runCommand(argv: string[], options: CommandOptions): Promise<CommandResult> {
  const limit = options.outputLimitBytes ?? 1024 * 1024;
  const output = limit === 0 ? "ignore" : "pipe";
  const child = Bun.spawn(argv, {
    cwd: options.cwd ?? "/",
    env: options.env ?? childEnvironment(),
    // Not the bytes themselves: Bun holds a memfd for those until some later garbage collection.
    stdio: [
      options.stdin === undefined ? "ignore" : "pipe",
      output,
      output,
      ...(options.inherit === undefined ? [] : [options.inherit]),
    ],
    detached: options.ownSession ?? false,
  });
  place(child.pid, options.work ?? "prompt");
  if (child.stdin !== undefined && options.stdin !== undefined) feed(child.stdin, options.stdin);
  const stdout = capture(child.stdout, limit);
  const stderr = capture(child.stderr, limit);
  let exitCode = 128 + 9;
  const exited = child.exited.then((code) => {
    exitCode = code;
  });
  const ended = Promise.all([stdout.done, stderr.done, exited]);
  let timedOut = false;
  let timer: Timer | undefined;
  const givenUp = new Promise<void>((resolve) => {
    timer = setTimeout(() => {
      timedOut = true;
      kill(child, options.ownSession ?? false);
      timer = setTimeout(resolve, KILL_GRACE_MS);
    }, options.deadlineMs);
  });
  try {
    await Promise.race([ended, givenUp]);
    return { exitCode, stdout: stdout.text(), stderr: stderr.text(), timedOut };
  } finally {
    clearTimeout(timer);
    void stdout.cancel();
    void stderr.cancel();
  }
}
