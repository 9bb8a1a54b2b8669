import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import type { Core } from "../container/core.ts";
import { podPaths } from "../container/paths.ts";
import type { DNSConfig, PodSandboxConfig } from "../gen/runtime/v1/pod_sandbox_config_pb.ts";
import { MountFlag, mount } from "../linux/mount.ts";

/** As Docker and CRI-O do. */
const SHM_BYTES = 64 * 1024 * 1024;

/** The text of resolv.conf(5): the pod's DNS configuration, or the host's file where it has none. */
export function resolvConf(dns: DNSConfig | undefined, hostFile = "/etc/resolv.conf"): string {
  const lines: string[] = [];
  if (dns !== undefined) {
    if (dns.searches.length > 0) lines.push(`search ${dns.searches.join(" ")}`);
    for (const server of dns.servers) lines.push(`nameserver ${server}`);
    if (dns.options.length > 0) lines.push(`options ${dns.options.join(" ")}`);
  }
  if (lines.length > 0) return `${lines.join("\n")}\n`;
  try {
    return readFileSync(hostFile, "utf8");
  } catch {
    return "";
  }
}

/** Writes what every container of the pod gets bound into it. World-readable: containers read them. */
export function writePodFiles(
  core: Core,
  id: string,
  config: PodSandboxConfig,
  hostname: string,
): void {
  const paths = podPaths(core, id);
  mkdirSync(paths.directory, { recursive: true, mode: 0o700 });
  writeFileSync(paths.resolvConf, resolvConf(config.dnsConfig), { mode: 0o644 });
  writeFileSync(paths.hostname, `${hostname}\n`, { mode: 0o644 });
}

/** The /dev/shm that the pod's containers share, as they share the IPC namespace. */
export function mountShm(core: Core, id: string): void {
  const { shm } = podPaths(core, id);
  mkdirSync(shm, { mode: 0o700 });
  mount({
    source: "shm",
    target: shm,
    type: "tmpfs",
    flags: MountFlag.noSuid | MountFlag.noDev | MountFlag.noExec,
    data: `mode=1777,size=${SHM_BYTES}`,
  });
}
