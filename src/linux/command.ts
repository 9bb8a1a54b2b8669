/** Short-lived child processes: the OCI runtime, busctl, and the like. */

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
  /** Bytes kept of each of stdout and stderr (default 1 MiB). */
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

async function readCapped(stream: ReadableStream<Uint8Array>, limitBytes: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let kept = 0;
  for await (const chunk of stream) {
    const room = limitBytes - kept;
    if (room <= 0) continue;
    chunks.push(chunk.length > room ? chunk.subarray(0, room) : chunk);
    kept += Math.min(chunk.length, room);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/**
 * Runs a command to its end, never through a shell.
 *
 * @throws what `Bun.spawn` throws when the program is missing or not executable (`code` ENOENT, EACCES).
 */
export async function runCommand(argv: string[], options: CommandOptions): Promise<CommandResult> {
  const child = Bun.spawn(argv, {
    cwd: options.cwd ?? "/",
    env: options.env ?? childEnvironment(),
    stdin: options.stdin === undefined ? "ignore" : new TextEncoder().encode(options.stdin),
    stdout: "pipe",
    stderr: "pipe",
    detached: true,
  });
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch {
      child.kill("SIGKILL");
    }
  }, options.deadlineMs);
  try {
    const limit = options.outputLimitBytes ?? 1024 * 1024;
    const [stdout, stderr, exitCode] = await Promise.all([
      readCapped(child.stdout, limit),
      readCapped(child.stderr, limit),
      child.exited,
    ]);
    return { exitCode, stdout, stderr, timedOut };
  } finally {
    clearTimeout(timer);
  }
}
