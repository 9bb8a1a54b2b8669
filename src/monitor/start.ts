import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { CribError } from "../error.ts";
import { argumentsOf, killIf } from "../linux/process.ts";
import { Monitor } from "./client.ts";
import { withDeadline } from "./deadline.ts";

export interface MonitorOptions {
  podId: string;
  /** `<state>/pods/<id>`: holds monitor.sock, exits/<containerId>, monitor.log. */
  directory: string;
  /**
   * Where to pin (bind mount) each new namespace; absent: the host's. With `pid` a pause process
   * is pid 1 of it, and dies with the monitor.
   */
  namespaces: { net?: string; ipc?: string; uts?: string; pid?: string };
  /** Only with `namespaces.uts`. */
  hostname?: string;
  /** Only those of the pod's own namespaces; anything else would change the host and is refused. */
  sysctls: Record<string, string>;
  /** Of the monitor itself; kept as inherited where it may not be lowered. */
  oomScoreAdj?: number;
  /** Files that take "0" from a process that joins their cgroup: see `joinFiles` of src/linux. */
  cgroupFiles?: readonly string[];
  /** For the start, and later for each short request. */
  deadlineMs: number;
  /** The helper to run; by default the embedded one, unpacked below `<state>/bin`. */
  binary?: string;
}

/**
 * Starts a pod's monitor and connects to it. Where the start fails, the monitor has undone its pins;
 * where it did not end within the deadline, it is killed and the caller unmounts them.
 */
export async function startMonitor(options: MonitorOptions): Promise<Monitor> {
  const { directory, deadlineMs } = options;
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const binary = options.binary ?? (await embedded(directory));
  const child = Bun.spawn([binary, ...commandLine(options)], {
    argv0: "crib-monitor",
    cwd: "/",
    env: {},
    stdin: "ignore",
    stdout: "pipe",
    stderr: "ignore",
  });
  const output = new Response(child.stdout).text();
  try {
    const line = await withDeadline(output, deadlineMs, `pod monitor of ${options.podId}: start`);
    if (!line.startsWith("ready ")) {
      const reason = line.replace(/^error /, "").trim() || "it ended without a word";
      // That kernel has no such sysctl, or not such a value: the caller's to correct.
      const code = reason.startsWith("sysctl ") ? "InvalidArgument" : "Internal";
      throw new CribError(code, `pod monitor of ${options.podId}: ${reason}`);
    }
  } catch (error) {
    child.kill("SIGKILL");
    // It may have been told in the last moment: then the monitor lives on without its starter.
    void output.then(
      (line) => end(line, options.podId),
      () => undefined,
    );
    throw error;
  }
  try {
    return await Monitor.connect(directory, deadlineMs);
  } catch (error) {
    end(await output, options.podId);
    throw error;
  }
}

/** Kills the monitor that said so in its line, if it did. */
function end(line: string, podId: string): void {
  const pid = Number(/^ready (\d+)/.exec(line)?.[1] ?? 0);
  if (pid > 1) killIf(pid, () => isMonitor(pid, podId));
}

/** Whether the process with that number is the monitor of that pod. */
export function isMonitor(pid: number, podId: string): boolean {
  const [name, ...rest] = argumentsOf(pid);
  return name === "crib-monitor" && rest.includes(podId);
}

function commandLine(options: MonitorOptions): string[] {
  const { namespaces, hostname, oomScoreAdj } = options;
  const line = ["--id", options.podId, "--directory", options.directory];
  for (const kind of ["net", "ipc", "uts", "pid"] as const) {
    const path = namespaces[kind];
    if (path !== undefined) line.push(`--${kind}`, path);
  }
  if (hostname !== undefined) line.push("--hostname", hostname);
  if (oomScoreAdj !== undefined) line.push("--oom-score-adj", `${oomScoreAdj}`);
  for (const [name, value] of Object.entries(options.sysctls)) {
    line.push("--sysctl", `${name}=${value}`);
  }
  for (const file of options.cgroupFiles ?? []) line.push("--cgroup", file);
  return line;
}

async function embedded(directory: string): Promise<string> {
  const { monitorBinary } = await import("./binary.ts");
  return monitorBinary(dirname(dirname(directory)));
}
