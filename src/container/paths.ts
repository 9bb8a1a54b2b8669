import { existsSync } from "node:fs";
import { posix } from "node:path";
import { CribError } from "../error.ts";
import type { Core } from "./core.ts";

/** Where a container's short-lived files are: on tmpfs, gone after a reboot. */
export function containerPaths(core: Pick<Core, "config">, id: string) {
  const bundle = `${core.config.crib.state}/containers/${id}`;
  return {
    bundle,
    spec: `${bundle}/config.json`,
    process: `${bundle}/process.json`,
    pidFile: `${bundle}/pid`,
    runtimeLog: `${bundle}/runtime.log`,
    /** Where its target's PID namespace is pinned while it is made. */
    targetPin: `${bundle}/ns-target`,
  };
}

/** Where a pod's short-lived files are; the monitor keeps its socket and exit records there too. */
export function podPaths(core: Pick<Core, "config">, id: string) {
  const directory = `${core.config.crib.state}/pods/${id}`;
  return {
    directory,
    /** The mount of what its containers may write to, which is of a size of its own. */
    lent: `${directory}/lent`,
    pin: (namespace: string) => `${directory}/ns-${namespace}`,
  };
}

/** What a pod lends to its containers: bound into them, writable. */
export function lentPaths(core: Pick<Core, "config">, id: string) {
  const { directory, lent } = podPaths(core, id);
  // An older Crib had them in the pod's directory, with a mount for `shm` alone.
  const at = existsSync(lent) ? lent : directory;
  return { resolvConf: `${at}/resolv.conf`, hostname: `${at}/hostname`, shm: `${at}/shm` };
}

/**
 * The absolute path of a container's log, "" for none. A log path is below the pod's log directory.
 *
 * @throws CribError InvalidArgument: it leaves that directory, or the pod has none.
 */
export function logPathOf(logDirectory: string, logPath: string): string {
  if (logPath === "") return "";
  if (logDirectory === "") {
    const text = `log_path: "${logPath}": the pod sandbox was made without log_directory`;
    throw new CribError("InvalidArgument", text);
  }
  if (!logDirectory.startsWith("/")) {
    throw new CribError("InvalidArgument", `log_directory: "${logDirectory}" is not absolute`);
  }
  const directory = posix.normalize(logDirectory);
  const path = posix.join(directory, logPath);
  if (!path.startsWith(directory.endsWith("/") ? directory : `${directory}/`)) {
    throw new CribError("InvalidArgument", `log_path: "${logPath}" leaves the log directory`);
  }
  return path;
}
