/** Makes the private namespaces look like a node: what critest takes for granted. */
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { output } from "./programs.ts";

/** Pods get addresses of this network; it exists inside the private network namespace only. */
const podNetwork = "10.87.0.0/16";

/** CNI plugins where Debian or kubeadm put them. */
export const cniBinDirs = ["/opt/cni/bin", "/usr/lib/cni"];

/**
 * Host ports are asked for on 127.0.0.1: the kernel must route such packets and their source has to
 * be masqueraded, or the pod answers itself. (Routing, forwarding, lo: test/isolate.sh.)
 */
export function prepareHost(): void {
  const rule = ["-s", "127.0.0.0/8", "!", "-o", "lo", "-j", "MASQUERADE"];
  output(["iptables", "-w", "-t", "nat", "-A", "POSTROUTING", ...rule]);
}

/** A CNI configuration with a bridge and host ports, in a directory of its own. */
export function writeCniConfig(directory: string): void {
  mkdirSync(directory, { recursive: true });
  const bridge = {
    type: "bridge",
    bridge: "crib-conf0",
    isGateway: true,
    ipMasq: true,
    hairpinMode: true,
    ipam: {
      type: "host-local",
      dataDir: join(directory, "leases"),
      ranges: [[{ subnet: podNetwork }]],
      routes: [{ dst: "0.0.0.0/0" }],
    },
  };
  const portmap = { type: "portmap", capabilities: { portMappings: true }, snat: true };
  writeFileSync(
    join(directory, "10-conformance.conflist"),
    JSON.stringify({ cniVersion: "1.0.0", name: "crib-conformance", plugins: [bridge, portmap] }),
  );
}

/** Addresses that are still leased when all pods are gone: a pod was removed without CNI DEL. */
export function leasedAddresses(directory: string): string[] {
  try {
    return readdirSync(join(directory, "leases/crib-conformance")).filter((it) => /^\d/.test(it));
  } catch {
    return []; // no pod ever had an address
  }
}
