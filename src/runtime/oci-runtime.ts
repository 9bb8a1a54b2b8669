import { closeSync, constants, fstatSync, mkdirSync, openSync, readSync, statSync } from "node:fs";
import { CribError, messageOf } from "../error.ts";
import { type CommandResult, runCommand } from "../linux/command.ts";
import { noFeatures, parseFeatures, type RuntimeFeatures } from "./features.ts";

export interface OciRuntimeOptions {
  /** The handler's name as the kubelet's RuntimeClass says it. */
  handler: string;
  /** The program, absolute. */
  path: string;
  /** Where the runtime keeps its own state (on tmpfs: gone after a reboot). */
  root: string;
  systemdCgroup: boolean;
}

/** Written by the runtime; absolute. */
export interface RuntimeFiles {
  pid: string;
  log: string;
}

/** How long `delete`, `state` and `features` may take. */
const COMMAND_DEADLINE_MS = 30_000;

/**
 * An OCI runtime with runc's command line (runc, crun, runsc, ...): argument vectors for what the
 * monitor runs (`create`, `exec`), calls for the rest.
 */
export class OciRuntime {
  readonly handler: string;
  readonly path: string;
  readonly #root: string;
  readonly #systemdCgroup: boolean;
  #features: { program: string; said: Promise<RuntimeFeatures> } | undefined;

  constructor(options: OciRuntimeOptions) {
    this.handler = options.handler;
    this.path = options.path;
    this.#root = options.root;
    this.#systemdCgroup = options.systemdCgroup;
    mkdirSync(this.#root, { recursive: true, mode: 0o700 });
  }

  /**
   * `create`: the container's stdio is the command's own, errors go to `logFile` as JSON lines.
   *
   * @param files `console`: of a container with a terminal, the socket that its master is sent to.
   */
  createArgv(id: string, bundle: string, files: RuntimeFiles & { console?: string }): string[] {
    const argv = [...this.#argv(files.log), "create", "--bundle", bundle, "--pid-file", files.pid];
    if (files.console !== undefined) argv.push("--console-socket", files.console);
    return [...argv, id];
  }

  /**
   * `exec`, detached: the process becomes a child of the nearest subreaper, the monitor.
   *
   * @param files `process`: the file with all of the process. Of a command line alone crun would make one
   *   without the container's no-new-privileges, and with `--env` without its environment. `console`: with a
   *   terminal, the socket that its master is sent to.
   */
  execArgv(id: string, files: RuntimeFiles & { process: string; console?: string }): string[] {
    const argv = [...this.#argv(files.log), "exec", "--detach", "--pid-file", files.pid];
    if (files.console !== undefined) argv.push("--console-socket", files.console);
    return [...argv, "--process", files.process, id];
  }

  /** @throws CribError with the runtime's own message. */
  async start(id: string, logFile: string, deadlineMs: number): Promise<void> {
    const result = await this.#run(["start", id], deadlineMs, logFile);
    if (result.exitCode !== 0) throw this.#failure("start", id, result, this.readLog(logFile));
  }

  /** Whether a container that exists was started, as the runtime sees it. */
  async isStarted(id: string): Promise<boolean> {
    const result = await this.#run(["state", id]);
    return result.exitCode === 0 && /"status":\s*"running"/.test(result.stdout);
  }

  /** Removes the runtime's state and cgroup of a container, killing what is left; missing is fine. */
  async delete(id: string): Promise<void> {
    const result = await this.#run(["delete", "--force", id]);
    if (result.exitCode === 0 || /does not exist|no such (file|container)/i.test(result.stderr)) {
      return;
    }
    throw this.#failure("delete", id, result);
  }

  /** Which program is at `path` now: another text when it was replaced, changed or removed. */
  program(): string {
    try {
      const { dev, ino, size, mtimeMs, ctimeMs } = statSync(this.path);
      return [dev, ino, size, mtimeMs, ctimeMs].join(" ");
    } catch {
      return ""; // gone, or out of reach
    }
  }

  /** What `features` says; a runtime that has no such command has no optional features. */
  features(): Promise<RuntimeFeatures> {
    const program = this.program();
    if (this.#features?.program !== program) {
      const said = this.#run(["features"]).then(
        (result) => (result.exitCode === 0 ? parseFeatures(result.stdout) : noFeatures),
        () => noFeatures,
      );
      this.#features = { program, said };
    }
    return this.#features.said;
  }

  /** The message of the last error in a `--log` file, or undefined. */
  readLog(logFile: string): string | undefined {
    return lastLogError(logFile);
  }

  #argv(logFile?: string): string[] {
    const argv = [this.path, "--root", this.#root];
    if (this.#systemdCgroup) argv.push("--systemd-cgroup");
    if (logFile !== undefined) argv.push("--log", logFile, "--log-format", "json");
    return argv;
  }

  /** With a log file the command has no other output: that is cheaper than two pipes. */
  async #run(
    command: string[],
    deadlineMs = COMMAND_DEADLINE_MS,
    logFile?: string,
  ): Promise<CommandResult> {
    try {
      return await runCommand([...this.#argv(logFile), ...command], {
        deadlineMs,
        outputLimitBytes: logFile === undefined ? undefined : 0,
      });
    } catch (error) {
      throw new CribError(
        "FailedPrecondition",
        `runtime handler ${this.handler}: cannot run ${this.path}: ${messageOf(error)}`,
        { cause: error },
      );
    }
  }

  #failure(verb: string, id: string, result: CommandResult, logged?: string): CribError {
    if (result.timedOut) {
      return new CribError(
        "DeadlineExceeded",
        `${this.handler} ${verb} ${id} did not end in time and was killed`,
      );
    }
    const detail = result.stderr.trim().split("\n").at(-1) ?? "";
    const message =
      logged ?? /msg="((?:[^"\\]|\\.)*)"/.exec(detail)?.[1]?.replaceAll('\\"', '"') ?? detail;
    return new CribError(
      "Internal",
      `${this.handler} ${verb} ${id}: ${message || `exit status ${result.exitCode}`}`,
    );
  }
}

/** Of a log: what the runtime said last is what it failed for. */
const LOG_END_BYTES = 64 * 1024;

function readEnd(file: string): string {
  const fd = openSync(file, constants.O_RDONLY);
  try {
    const bytes = Buffer.alloc(LOG_END_BYTES);
    const start = Math.max(0, fstatSync(fd).size - LOG_END_BYTES);
    return bytes.toString("utf8", 0, readSync(fd, bytes, 0, bytes.length, start));
  } finally {
    closeSync(fd);
  }
}

function lastLogError(logFile: string): string | undefined {
  let text: string;
  try {
    text = readEnd(logFile);
  } catch {
    return undefined;
  }
  for (const line of text.trim().split("\n").reverse()) {
    try {
      const entry: unknown = JSON.parse(line);
      if (typeof entry !== "object" || entry === null || !("msg" in entry)) continue;
      const level = "level" in entry ? entry.level : "error";
      if (level === "error" || level === "fatal") return String(entry.msg);
    } catch {
      // A line that was cut short says nothing.
    }
  }
  return undefined;
}
