import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { messageOf } from "../error.ts";
import { runCommand } from "../linux/command.ts";
import { SYSTEMD_REMEDY, systemdRunning } from "../linux/systemd.ts";
import type { OciRuntime } from "./oci-runtime.ts";

export interface ProbeOptions {
  /** A scratch directory of the probe's own. */
  directory: string;
  systemdCgroup: boolean;
}

/** Long: a node that starts all of its pods at once is slow, and crun is not tried again while runc works. */
const PROBE_DEADLINE_MS = 30_000;

/** The smallest bundle that makes a runtime set up cgroups, namespaces and a root. */
function bundle(id: string, options: ProbeOptions): object {
  return {
    ociVersion: "1.0.2",
    root: { path: "rootfs", readonly: true },
    process: { user: { uid: 0, gid: 0 }, args: ["/probe"], cwd: "/", noNewPrivileges: true },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      // The runtime makes devices here; the directory itself may be on a file system without (/run).
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
    ],
    linux: {
      cgroupsPath: options.systemdCgroup ? `system.slice:crib:${id}` : `/${id}`,
      namespaces: [{ type: "mount" }, { type: "pid" }, { type: "network" }],
    },
  };
}

/**
 * Makes a container and removes it again. Nothing is started: the "program" is an empty file.
 *
 * @returns "" when the runtime works, else what it said.
 */
export async function probeRuntime(runtime: OciRuntime, options: ProbeOptions): Promise<string> {
  const { directory } = options;
  // Always the same for one daemon's state, so that what a killed one left is found again.
  const place = createHash("sha256").update(directory).digest("hex").slice(0, 16);
  const id = `crib-probe-${runtime.handler}-${place}`;
  if (existsSync(directory)) await runtime.delete(id).catch(() => undefined);
  const pidFile = `${directory}/pid`;
  const logFile = `${directory}/log`;
  await rm(directory, { recursive: true, force: true });
  for (const name of ["proc", "dev"]) {
    await mkdir(`${directory}/rootfs/${name}`, { recursive: true, mode: 0o700 });
  }
  try {
    await writeFile(`${directory}/rootfs/probe`, "", { mode: 0o755 });
    await writeFile(`${directory}/config.json`, JSON.stringify(bundle(id, options)));
    const argv = runtime.createArgv(id, directory, { pid: pidFile, log: logFile });
    // No output: the container's init keeps the command's stdio; errors are in the log file.
    const result = await runCommand(argv, { deadlineMs: PROBE_DEADLINE_MS, outputLimitBytes: 0 });
    if (result.exitCode === 0) return "";
    const said = runtime.readLog(logFile) ?? `exit status ${result.exitCode}`;
    const why = result.timedOut ? `no answer within ${PROBE_DEADLINE_MS / 1000} s` : said;
    const remedy = options.systemdCgroup && !systemdRunning() ? `; ${SYSTEMD_REMEDY}` : "";
    return `${runtime.path} does not work on this host: ${why}${remedy}`;
  } catch (error) {
    return `${runtime.path} cannot be run: ${messageOf(error)}`;
  } finally {
    await runtime.delete(id).catch(() => undefined);
    await rm(directory, { recursive: true, force: true });
  }
}
