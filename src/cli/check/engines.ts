/** OCI runtimes, CNI, systemd: the programs that Crib drives. Pure: the facts come from facts.ts. */
import { knownEscapes } from "./escapes.ts";
import { type Finding, fail, ok, warn } from "./finding.ts";

export interface HandlerFact {
  name: string;
  path: string;
  /** The first line of --version; "" when it says none. */
  version: string;
  /** What making a container with it said; "" when it worked. */
  problem: string;
}

export interface EngineFacts {
  handlers: readonly HandlerFact[];
  /** The handler of pods that name none: `runtime.default_handler`, or the first that works. */
  defaultHandler: string;
  cgroupDriver: { configured: "auto" | "systemd" | "cgroupfs"; systemd: boolean; bus: boolean };
  cni: {
    confDir: string;
    binDirs: readonly string[];
    problem: string;
    plugins: readonly string[];
    /** By a plugin, or as the configuration says of the network. */
    mapsHostPorts: boolean;
  };
  /** Absolute paths; "" when it is not in PATH. */
  iptables: string;
  nft: string;
}

/** What the usual networks are made of. */
const USUAL_PLUGINS = ["bridge", "host-local", "loopback", "portmap"];

export function checkEngines(facts: EngineFacts): Finding[] {
  return [...checkHandlers(facts), checkDriver(facts), ...checkCni(facts), checkFirewall(facts)];
}

function checkHandlers({ handlers, defaultHandler }: EngineFacts): Finding[] {
  const install = "install crun or runc (apt install crun), or set runtime.handlers";
  if (handlers.length === 0) {
    return [fail("OCI runtime", "neither crun nor runc is in PATH", install)];
  }
  const works = handlers.some(({ problem }) => problem === "");
  const findings = handlers.flatMap(({ name, path, version, problem }) => {
    const check = `OCI runtime ${name}`;
    if (problem === "") {
      const suffix = name === defaultHandler ? ", the default" : "";
      return [ok(check, `${path}: ${version || "works"}${suffix}`), ...escapes(check, version)];
    }
    const message = version === "" ? problem : `${version}: ${problem}`;
    if (!works || name === defaultHandler) return fail(check, message, install);
    return warn(check, message, `only if pods shall use it: another version of ${name}`);
  });
  if (defaultHandler !== "" && !handlers.some(({ name }) => name === defaultHandler)) {
    const message = `runtime.default_handler: "${defaultHandler}" is not there`;
    findings.push(fail("OCI runtime", message, install));
  }
  return findings;
}

/** Distributions mend faults without another version, so that this cannot be more than a warning. */
function escapes(check: string, version: string): Finding[] {
  const names = knownEscapes(version);
  if (names.length === 0) return [];
  const message = `${version}: older than the fixes of ${names.join(", ")}, by which containers escape`;
  const remedy =
    "see whether your distribution has mended them (Debian: security-tracker.debian.org), or upgrade";
  return [warn(check, message, remedy)];
}

function checkDriver({ cgroupDriver }: EngineFacts): Finding {
  const { configured, systemd, bus } = cgroupDriver;
  const driver = configured === "auto" ? (systemd ? "systemd" : "cgroupfs") : configured;
  const check = "cgroup driver";
  if (driver === "cgroupfs") {
    if (!systemd) return ok(check, "cgroupfs (systemd does not run here)");
    const message = "cgroupfs under systemd: both will manage the same tree";
    return warn(check, message, 'runtime.cgroup_driver = "systemd", in the kubelet too');
  }
  if (!systemd) {
    const message = "systemd, which does not run here";
    return fail(check, message, 'runtime.cgroup_driver = "cgroupfs", in the kubelet too');
  }
  if (!bus) {
    const message = "systemd, but its D-Bus cannot be reached (busctl, system_bus_socket)";
    const remedy = 'apt install dbus systemd, or runtime.cgroup_driver = "cgroupfs"';
    return fail(check, message, remedy);
  }
  return ok(check, "systemd");
}

function checkCni({ cni }: EngineFacts): Finding[] {
  const { confDir, binDirs, problem, plugins, mapsHostPorts } = cni;
  if (problem === "") {
    const found = ok("CNI", `${confDir}: ${plugins.join(", ")}`);
    if (mapsHostPorts) return [found];
    const message = "no plugin has the capability portMappings: pods with host ports are refused";
    const remedy =
      `{"type": "portmap", "capabilities": {"portMappings": true}} in ${confDir}, or ` +
      "network.assumed_capabilities if the network maps them without being told";
    return [found, warn("host ports", message, remedy)];
  }
  if (plugins.length > 0) {
    const remedy = `put the plugin there (apt install containernetworking-plugins), or correct ${confDir}`;
    return [fail("CNI", problem, remedy)];
  }
  const where = binDirs.join(" or ");
  const remedy =
    `put plugins (${USUAL_PLUGINS.join(", ")}) in ${where} and a .conflist in ${confDir}; a network ` +
    "add-on of the cluster may bring both";
  return [fail("CNI", problem, remedy)];
}

function checkFirewall({ iptables, nft, cni }: EngineFacts): Finding {
  if (iptables !== "") return ok("iptables", iptables);
  const remedy = "apt install iptables";
  if (cni.plugins.includes("portmap")) {
    const message = nft === "" ? "neither iptables nor nft" : `only ${nft}`;
    // portmap itself falls back to nft since CNI plugins 1.6.
    if (nft === "") return fail("iptables", `${message}: the portmap plugin needs one`, remedy);
    return warn("iptables", `${message}: portmap of CNI plugins before 1.6 needs iptables`, remedy);
  }
  if (nft !== "") return ok("iptables", `only ${nft}`);
  return warn("iptables", "neither iptables nor nft: no host ports, no kube-proxy", remedy);
}
