import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import type { Core } from "../container/core.ts";
import { lentPaths, podPaths } from "../container/paths.ts";
import type { DNSConfig } from "../gen/runtime/v1/pod_sandbox_config_pb.ts";
import { MountFlag, mount } from "../linux/mount.ts";
import { readRegularFile } from "../linux/regular-file.ts";
import type { PodRecord } from "../state/records.ts";

/** As Docker and CRI-O do. */
const SHM_BYTES = 64 * 1024 * 1024;
/** A file for each page, and as many directories and empty files: those cost the kernel's memory instead. */
const SHM_INODES = (2 * SHM_BYTES) / 4096;
/** resolv.conf and hostname, of a page of 64 KiB each (arm64) where they are small. */
const FILES_BYTES = 256 * 1024;
const FILES_INODES = 16;
/** More of a pod's resolv.conf is refused; the kubelet sends 32 search domains of 2,048 bytes together. */
export const RESOLV_CONF_LIMIT_BYTES = 64 * 1024;

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
    return readRegularFile(hostFile).toString();
  } catch {
    return "";
  }
}

/**
 * Makes what the containers of a pod get bound into them, on one small file system of the pod's own: a
 * container may write to it (DNS clients and VPNs do), and what it fills must be nobody else's. What is in
 * there costs the container that wrote it, as all of its memory does. One mount for all: what counts the
 * host's mounts (systemd, the kubelet) does so often.
 */
export function lendFiles(
  core: Core,
  pod: PodRecord,
  texts: { hostname: string; resolvConf: string },
): void {
  const { directory, lent } = podPaths(core, pod.id);
  const hasShm = pod.namespaces.ipc !== undefined;
  const bytes = FILES_BYTES + (hasShm ? SHM_BYTES : 0);
  const inodes = FILES_INODES + (hasShm ? SHM_INODES : 0);
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  mkdirSync(lent, { mode: 0o700 });
  mount({
    source: "shm",
    target: lent,
    type: "tmpfs",
    flags: MountFlag.noSuid | MountFlag.noDev | MountFlag.noExec,
    data: `mode=700,size=${bytes},nr_inodes=${inodes}`,
  });
  const paths = lentPaths(core, pod.id);
  // World-readable: containers read them.
  writeFileSync(paths.resolvConf, texts.resolvConf, { mode: 0o644 });
  writeFileSync(paths.hostname, `${texts.hostname}\n`, { mode: 0o644 });
  if (!hasShm) return;
  // The /dev/shm that they share, as they share the IPC namespace.
  mkdirSync(paths.shm);
  chmodSync(paths.shm, 0o1777);
}
