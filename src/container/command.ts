import { rmSync } from "node:fs";
import { CribError } from "../error.ts";
import { quickenMoves } from "../linux/cgroup-moves.ts";
import { childEnvironment } from "../linux/command.ts";
import type { Monitor } from "../monitor/client.ts";
import type { ExecRequest, ExecResult } from "../monitor/types.ts";
import { orUndo } from "../observe/undo.ts";
import { requireContainer } from "../state/find.ts";
import type { ContainerRecord } from "../state/records.ts";
import type { Core } from "./core.ts";
import { containerPaths } from "./paths.ts";
import { writeCommandFile } from "./process-file.ts";
import { inState } from "./room.ts";

/** A running container and the monitor that has its streams. */
export interface Running {
  container: ContainerRecord;
  monitor: Monitor;
}

/** @throws CribError InvalidArgument (no id), NotFound, FailedPrecondition. */
export function requireRunning(core: Core, containerId: string): Running {
  const container = requireContainer(core.store, containerId);
  const monitor = core.monitors.get(container.podId);
  if (container.phase === "running" && monitor !== undefined) return { container, monitor };
  const why = container.phase === "running" ? "without its pod's monitor" : container.phase;
  throw new CribError("FailedPrecondition", `container ${container.id} is ${why}, not running`);
}

/** A command that is to be run in a container. */
export interface Command extends Running {
  request: ExecRequest;
  consoleSocket: string;
  /** @throws CribError FailedPrecondition when there was no process, with the runtime's reason. */
  check(result: ExecResult, stderr?: string): ExecResult;
  /** Removes its files. */
  discard(): void;
}

let serial = 0;

/** @throws CribError InvalidArgument, NotFound, FailedPrecondition. */
export async function prepareCommand(
  core: Core,
  containerId: string,
  command: readonly string[],
  { tty, timeoutMs }: { tty: boolean; timeoutMs: number },
): Promise<Command> {
  const { container, monitor } = requireRunning(core, containerId);
  if (command.length === 0 || command[0] === "") {
    throw new CribError("InvalidArgument", "cmd is empty");
  }
  const pod = core.store.pods.get(container.podId);
  const runtime = core.handlers.existing(pod?.handler ?? "");
  quickenMoves(core.cgroups);
  serial += 1;
  const paths = containerPaths(core, container.id);
  const { bundle } = paths;
  const name = `exec-${process.pid}-${serial}`;
  const consoleSocket = `${name}.sock`;
  const files = {
    pid: `${bundle}/${name}.pid`,
    log: `${bundle}/${name}.log`,
    process: `${bundle}/${name}.json`,
    ...(tty && { console: consoleSocket }),
  };
  const env = tty ? terminalEnv(core, container) : [];
  await orUndo(
    () =>
      inState(core, () =>
        writeCommandFile(paths, files.process, { args: command, env, terminal: tty }),
      ),
    async () => rmSync(files.process, { force: true }),
  );
  return {
    container,
    monitor,
    consoleSocket,
    request: {
      id: container.id,
      argv: runtime.execArgv(container.id, files),
      env: Object.entries(childEnvironment()).map(([key, value]) => `${key}=${value}`),
      cwd: bundle,
      pidFile: files.pid,
      timeoutMs,
      drainMs: core.config.container.exec_drain_timeout_seconds * 1000,
    },
    check(result, stderr = "") {
      if (!result.runtimeFailed) return result;
      throw new CribError(
        "FailedPrecondition",
        `cannot run ${JSON.stringify(command[0])} in container ${container.id}: ` +
          (runtime.readLog(files.log) ?? (stderr.trim() || `exit status ${result.exitCode}`)),
      );
    },
    discard() {
      // The pid file is kept only if the monitor could not take it: it is deleted when it is read.
      for (const file of [files.pid, files.log, files.process]) rmSync(file, { force: true });
      if (tty) rmSync(`${bundle}/${consoleSocket}`, { force: true });
    },
  };
}

/** The container's own environment has a TERM when the container has a terminal. */
function terminalEnv({ store }: Core, { id, config }: ContainerRecord): string[] {
  const hasOne = () => store.containerConfig(id).envs.some(({ key }) => key === "TERM");
  return config.tty || hasOne() ? [] : ["TERM=xterm"];
}
