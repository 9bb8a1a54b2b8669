/** Finds and tries out the programs that Crib drives. */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Config } from "../../config/config.ts";
import { runCommand } from "../../linux/command.ts";
import { systemdRunning } from "../../linux/systemd.ts";
import { isServed } from "../../network/attachment.ts";
import { ConfDir } from "../../network/conf-dir.ts";
import { Plugins } from "../../network/plugin.ts";
import { Readies } from "../../network/ready.ts";
import { Handlers } from "../../runtime/handlers.ts";
import type { EngineFacts, HandlerFact } from "./engines.ts";

const VERSION_DEADLINE_MS = 10_000;
const BUS_SOCKET = "/run/dbus/system_bus_socket";
/** Where administrators' programs are; root's PATH may lack them (su without -). */
const SBIN = "/usr/local/sbin:/usr/sbin:/sbin";

export async function readEngines(config: Config): Promise<EngineFacts> {
  const [handlers, cni] = await Promise.all([readHandlers(config), readCni(config)]);
  return {
    ...handlers,
    cni,
    cgroupDriver: {
      configured: config.runtime.cgroup_driver,
      systemd: systemdRunning(),
      bus: which("busctl") !== "" && existsSync(BUS_SOCKET),
    },
    iptables: which("iptables"),
    nft: which("nft"),
  };
}

function which(name: string): string {
  return Bun.which(name, { PATH: `${process.env.PATH ?? ""}:${SBIN}` }) ?? "";
}

/** Makes a container with each handler, as the daemon does when it starts, and removes it. */
async function readHandlers(
  config: Config,
): Promise<Pick<EngineFacts, "handlers" | "defaultHandler">> {
  const { handlers: table, default_handler: defaultHandler, cgroup_driver } = config.runtime;
  const stateDir = mkdtempSync(join(tmpdir(), "crib-check-"));
  const systemdCgroup =
    cgroup_driver === "systemd" || (cgroup_driver === "auto" && systemdRunning());
  try {
    const handlers = new Handlers({ table, defaultHandler, stateDir, systemdCgroup });
    const facts = await Promise.all(
      (await handlers.list()).map(async (handler): Promise<HandlerFact> => {
        return { ...handler, version: await versionOf(handler.path) };
      }),
    );
    const first = facts.find(({ problem }) => problem === "")?.name ?? "";
    return { handlers: facts, defaultHandler: defaultHandler || first };
  } finally {
    rmSync(stateDir, { recursive: true, force: true });
  }
}

async function versionOf(path: string): Promise<string> {
  try {
    const options = { deadlineMs: VERSION_DEADLINE_MS };
    const { exitCode, stdout } = await runCommand([path, "--version"], options);
    return exitCode === 0 ? (stdout.split("\n")[0] ?? "").trim().slice(0, 100) : "";
  } catch {
    return "";
  }
}

async function readCni(config: Config): Promise<EngineFacts["cni"]> {
  const { conf_dir: confDir, bin_dirs: binDirs, timeout_seconds: seconds } = config.network;
  const directory = new ConfDir(confDir);
  const configured = directory.read();
  const list = "list" in configured ? configured.list.plugins : [];
  const plugins = list.map(({ type }) => type);
  const mapsHostPorts = isServed("portMappings", list, config.network.assumed_capabilities);
  const readies = new Readies(directory, new Plugins(binDirs, seconds * 1000));
  return { confDir, binDirs, plugins, mapsHostPorts, problem: (await readies.status()).message };
}
