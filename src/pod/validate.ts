import { isIP } from "node:net";
import { refuseLong } from "../container/config-size.ts";
import type { Core } from "../container/core.ts";
import { validateSandboxSecurity } from "../container/spec/sandbox.ts";
import { CribError } from "../error.ts";
import { type PodSandboxConfig, Protocol } from "../gen/runtime/v1/pod_sandbox_config_pb.ts";
import { NamespaceMode } from "../gen/runtime/v1/security_pb.ts";
import { BANDWIDTH_ANNOTATIONS } from "../network/attachment.ts";
import { log } from "../observe/log.ts";
import { RESOLV_CONF_LIMIT_BYTES, resolvConf } from "./files.ts";

function invalid(field: string, value: unknown, why: string): CribError {
  return new CribError("InvalidArgument", `${field}: ${JSON.stringify(value)} ${why}`);
}

/**
 * Refuses a pod that could not be what it asks for, before anything is made.
 *
 * @throws CribError InvalidArgument or Unimplemented, naming field and value.
 */
export function validatePod(core: Core, config: PodSandboxConfig): void {
  const { metadata } = config;
  if (metadata === undefined) throw new CribError("InvalidArgument", "config.metadata is missing");
  for (const field of ["name", "namespace", "uid"] as const) {
    if (metadata[field] === "") throw invalid(`config.metadata.${field}`, "", "is empty");
  }
  refuseLong(config);
  if (config.windows !== undefined) {
    throw new CribError("InvalidArgument", "config.windows is set, and this is a Linux node");
  }
  if (config.logDirectory !== "" && !config.logDirectory.startsWith("/")) {
    throw invalid("config.log_directory", config.logDirectory, "is not absolute");
  }
  validateHostname(config);
  validatePorts(config);
  validateHostNetwork(config);
  validateDns(config);
  validateSysctls(config.linux?.sysctls ?? {}, namespaceModes(config));
  for (const warning of validateSandboxSecurity(config.linux?.securityContext, core.host)) {
    log().warn({ pod: `${metadata.namespace}/${metadata.name}` }, warning);
  }
}

/** The namespaces that a pod shares with the node. */
export interface NamespaceModes {
  hostNetwork: boolean;
  hostIpc: boolean;
  /** POD: its containers share one PID namespace of the pod's own. */
  sharedPid: boolean;
}

/**
 * The pod's namespaces, as its security context says. The network decides the UTS namespace: a pod
 * with host network has the host's name.
 */
export function namespaceModes(config: PodSandboxConfig): NamespaceModes {
  const options = config.linux?.securityContext?.namespaceOptions;
  const field = "config.linux.security_context.namespace_options";
  for (const kind of ["network", "ipc"] as const) {
    const mode = options?.[kind] ?? NamespaceMode.POD;
    if (mode !== NamespaceMode.POD && mode !== NamespaceMode.NODE) {
      throw invalid(`${field}.${kind}`, NamespaceMode[mode] ?? mode, "is not POD or NODE");
    }
  }
  if (options?.pid === NamespaceMode.TARGET) {
    throw invalid(`${field}.pid`, "TARGET", "is for containers only");
  }
  if (options !== undefined && options.targetId !== "") {
    throw invalid(`${field}.target_id`, options.targetId, "is for containers only");
  }
  return {
    hostNetwork: options?.network === NamespaceMode.NODE,
    hostIpc: options?.ipc === NamespaceMode.NODE,
    sharedPid: (options?.pid ?? NamespaceMode.POD) === NamespaceMode.POD,
  };
}

function validateHostname({ hostname }: PodSandboxConfig): void {
  // Linux takes 64 bytes; the characters are DNS-1123's and what hosts files hold.
  if (hostname !== "" && !/^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$/.test(hostname)) {
    throw invalid("config.hostname", hostname, "is not a host name of at most 64 characters");
  }
}

function validatePorts(config: PodSandboxConfig): void {
  config.portMappings.forEach((mapping, index) => {
    const field = `config.port_mappings[${index}]`;
    if (Protocol[mapping.protocol] === undefined) {
      throw invalid(`${field}.protocol`, mapping.protocol, "is not TCP, UDP or SCTP");
    }
    for (const [name, port, least] of [
      ["container_port", mapping.containerPort, 1],
      ["host_port", mapping.hostPort, 0],
    ] as const) {
      if (port < least || port > 65535) throw invalid(`${field}.${name}`, port, "is not a port");
    }
    if (mapping.hostIp !== "" && isIP(mapping.hostIp) === 0) {
      throw invalid(`${field}.host_ip`, mapping.hostIp, "is not an IP address");
    }
  });
}

/** What a pod with the host's network has of itself: its processes listen on the host's own ports. */
function validateHostNetwork(config: PodSandboxConfig): void {
  if (!namespaceModes(config).hostNetwork) return;
  config.portMappings.forEach(({ hostPort, containerPort }, index) => {
    if (hostPort === 0 || hostPort === containerPort) return;
    const why = `is not container_port ${containerPort}, and the pod has the host's network`;
    throw invalid(`config.port_mappings[${index}].host_port`, hostPort, why);
  });
  for (const key of BANDWIDTH_ANNOTATIONS) {
    const value = config.annotations[key];
    if (value === undefined) continue;
    throw invalid(
      `config.annotations["${key}"]`,
      value,
      "cannot be: the pod has the host's network",
    );
  }
}

function validateDns(config: PodSandboxConfig): void {
  const { servers = [], searches = [], options = [] } = config.dnsConfig ?? {};
  for (const [name, values] of Object.entries({ servers, searches, options })) {
    for (const value of values) {
      // A line break would add lines of the client's own to resolv.conf.
      if (value === "" || /\s/.test(value)) {
        throw invalid(`config.dns_config.${name}`, value, "is empty or holds white space");
      }
    }
  }
  const bytes = Buffer.byteLength(resolvConf(config.dnsConfig, "/dev/null"));
  if (bytes > RESOLV_CONF_LIMIT_BYTES) {
    const limit = `the limit is ${RESOLV_CONF_LIMIT_BYTES}`;
    const what = "config.dns_config: resolv.conf would have";
    throw new CribError("InvalidArgument", `${what} ${bytes} bytes, ${limit}`);
  }
}

/** Sysctls that belong to the IPC namespace; those of the network namespace are all of net.*. */
const IPC_SYSCTL = /^(kernel\.(sem|shm[a-z_]+|msg[a-z_]+)|fs\.mqueue\.[a-z_]+)$/;

/**
 * The name with dots between its parts. Where a slash comes first, slashes divide it and dots belong to
 * its parts, as in sysctl.d(5) and Kubernetes.
 *
 * @example dottedSysctl("net/ipv4/conf/eth0.1/forwarding"); // "net.ipv4.conf.eth0/1.forwarding"
 */
export function dottedSysctl(name: string): string {
  if (/[./]/.exec(name)?.[0] !== "/") return name;
  return name.replace(/[./]/g, (it) => (it === "/" ? "." : "/"));
}

function validateSysctls(sysctls: Record<string, string>, modes: NamespaceModes): void {
  for (const [name, value] of Object.entries(sysctls)) {
    const field = `config.linux.sysctls["${name}"]`;
    const dotted = name.replaceAll("/", ".");
    if (value.includes("\n") || value.includes("\0"))
      throw invalid(field, value, "has a line break");
    if (dotted.includes("..") || !/^[a-z0-9_.-]+$/i.test(dotted)) {
      throw invalid(field, value, "is not a sysctl's name");
    }
    if (dotted.startsWith("net.")) {
      if (modes.hostNetwork) throw invalid(field, value, "would change the host's network");
    } else if (IPC_SYSCTL.test(dotted)) {
      if (modes.hostIpc) throw invalid(field, value, "would change the host's IPC");
    } else {
      throw invalid(field, value, "is not a sysctl of a namespace that a pod has");
    }
  }
}
