/**
 * The pod network: attaches pods through CNI and never forgets an attachment.
 *
 * Every ADD is preceded by a record on disk, and every record is followed by a DEL that is repeated until it
 * succeeds: after a failed ADD, a crash of the daemon, a change of the configuration, or a reboot.
 */
import { closeSync } from "node:fs";
import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { capabilityArgs, cniArgs, type PodAttachment, requireServed } from "./attachment.ts";
import { addChain, delChain, requestConfig, retryLater } from "./chain.ts";
import { ConfDir } from "./conf-dir.ts";
import { atLeast, type CniNetwork } from "./conflist.ts";
import { Gate } from "./gate.ts";
import { bootTimeMs, dropEmptyLeases, leaseDirectories, syncLeases } from "./leases.ts";
import { Plugins } from "./plugin.ts";
import { type NetworkStatus, Readies } from "./ready.ts";
import { type AttachmentRecord, Records } from "./record.ts";
import { type NetworkResult, parseResult } from "./result.ts";

export type { PodAttachment } from "./attachment.ts";
export type { NetworkStatus } from "./ready.ts";
export type { NetworkInterface, NetworkResult } from "./result.ts";

/** The interface that every pod gets. */
const INTERFACE = "eth0";

export interface NetworkOptions {
  /** Directory of CNI configuration files. */
  confDir: string;
  /** Directories of CNI plugins, in the order in which they are searched. */
  binDirs: string[];
  /** Where records are kept across reboots: `<root>/network`. */
  cacheDir: string;
  /** How long one plugin may take. */
  timeoutMs: number;
  /** Capabilities that the network has without a plugin that declares them. */
  assumedCapabilities: readonly string[];
}

export class Network {
  readonly #plugins: Plugins;
  readonly #readies: Readies;
  readonly #records: Records;
  readonly #assumed: readonly string[];
  readonly #gate = new Gate();
  readonly #results = new Map<string, NetworkResult>();

  constructor(options: NetworkOptions) {
    this.#plugins = new Plugins(options.binDirs, options.timeoutMs);
    this.#readies = new Readies(new ConfDir(options.confDir), this.#plugins);
    this.#records = new Records(options.cacheDir);
    this.#assumed = options.assumedCapabilities;
  }

  /** The condition NetworkReady; says why when it is false. */
  status(): Promise<NetworkStatus> {
    return this.#readies.status();
  }

  /**
   * Attaches a pod to the configured network. An attachment that the pod already has is undone first; one
   * that fails is undone before this throws.
   *
   * @throws CribError naming plugin, network and pod: Unavailable when no network is configured yet or a
   *   plugin is not ready, FailedPrecondition for a broken configuration or one that lacks what the pod asks
   *   (host ports, bandwidth), DeadlineExceeded for a plugin that hangs, InvalidArgument for what the pod asks, Internal for other failures of plugins.
   */
  add(pod: PodAttachment): Promise<NetworkResult> {
    return this.#gate.shared(pod.id, async () => {
      const record = await this.#newRecord(pod);
      return retryLater(async () => {
        await this.#detach(pod.id);
        return this.#attach(record);
      });
    });
  }

  /**
   * Undoes a pod's attachment, with the configuration it was made with. Does nothing when there is none; the
   * record stays when a plugin fails, and the next call tries again.
   */
  del(podId: string): Promise<void> {
    return this.#gate.shared(podId, () => this.#detach(podId));
  }

  /** The addresses of an attached pod; `undefined` when ADD has not succeeded. */
  result(podId: string): NetworkResult | undefined {
    const known = this.#results.get(podId);
    if (known !== undefined) return known;
    try {
      const raw = this.#records.read(podId)?.result;
      if (raw === undefined) return undefined;
      const result = parseResult(raw);
      this.#results.set(podId, result);
      return result;
    } catch (error) {
      log().warn({ podId, error: messageOf(error) }, "the network record cannot be read");
      return undefined;
    }
  }

  /** Ids of the pods that have a record, whether their ADD has succeeded or not. */
  attachments(): Promise<string[]> {
    return this.#records.list();
  }

  /**
   * For the daemon's start: undoes the attachments of pods that are no more, frees addresses that a power cut
   * has left without an owner, then lets the plugins of a 1.1 network drop what belongs to no valid pod.
   * Failures are logged; their records stay for the next time.
   *
   * @param isValid asked when the records are listed: of pods that have come meanwhile as well.
   */
  async gc(isValid: (podId: string) => boolean): Promise<void> {
    const networks = await this.#knownNetworks();
    const stale = (await this.attachments()).filter((podId) => !isValid(podId));
    await Promise.all(
      stale.map((podId) =>
        this.del(podId).catch((error: unknown) => {
          log().warn({ podId, error: messageOf(error) }, "stale network attachment stays");
        }),
      ),
    );
    await this.#gate.alone(async () => {
      await dropLost(networks);
      const readiness = await this.#readies.current();
      if ("network" in readiness) await this.#collect(readiness.network);
    });
  }

  /** The network of now and those of all attachments. */
  async #knownNetworks(): Promise<CniNetwork[]> {
    const readiness = await this.#readies.current();
    const networks = "network" in readiness ? [readiness.network] : [];
    for (const podId of await this.attachments()) {
      try {
        const record = this.#records.read(podId);
        if (record !== undefined) networks.push(record.network);
      } catch {
        // damaged: its DEL tells
      }
    }
    return networks;
  }

  async #newRecord(pod: PodAttachment): Promise<AttachmentRecord> {
    const readiness = await this.#readies.current();
    if ("problem" in readiness) {
      const code = readiness.missing ? "Unavailable" : "FailedPrecondition";
      throw new CribError(code, `network is not ready: ${readiness.problem}`);
    }
    const { network } = readiness;
    const capabilities = capabilityArgs(pod);
    requireServed(pod, network, this.#assumed);
    return {
      version: 1,
      podId: pod.id,
      pod: `${pod.namespace}/${pod.name}`,
      netns: pod.netns,
      ifName: INTERFACE,
      cniArgs: cniArgs(pod),
      capabilityArgs: capabilities,
      network,
    };
  }

  async #attach(record: AttachmentRecord): Promise<NetworkResult> {
    const { podId, network } = record;
    await this.#records.write(record);
    try {
      const raw = await this.#addLocked(record);
      const result = readResult(raw, record);
      await syncLeases(leaseDirectories(network), result.ips);
      await this.#records.write({ ...record, result: raw });
      this.#results.set(podId, result);
      return result;
    } catch (error) {
      try {
        await this.#undo(record);
      } catch (second) {
        const undo = messageOf(second);
        log().error(
          { podId, network: network.name, error: undo },
          "a failed CNI ADD is not undone",
        );
      }
      throw error;
    }
  }

  async #addLocked(record: AttachmentRecord): Promise<unknown> {
    const hold = this.#records.lock(record.podId);
    try {
      return await addChain(this.#plugins, record, hold);
    } finally {
      closeSync(hold);
    }
  }

  async #detach(podId: string): Promise<void> {
    let record: AttachmentRecord | undefined;
    try {
      record = this.#records.read(podId);
    } catch (error) {
      record = await this.#substitute(podId, error);
    }
    await this.#records.removePartial(podId);
    if (record === undefined) return;
    await this.#undo(record);
  }

  async #undo(record: AttachmentRecord): Promise<void> {
    // A daemon that was killed leaves its ADD running: a DEL before its end would be in vain.
    if (!(await this.#records.unlocked(record.podId, this.#plugins.timeoutMs))) {
      log().warn({ podId: record.podId }, "an earlier CNI ADD does not end; DEL all the same");
    }
    await delChain(this.#plugins, record);
    // On disk before the record goes, or a power cut could bring back a lease that nobody knows of.
    await syncLeases(leaseDirectories(record.network), []);
    await this.#records.remove(record.podId);
    this.#results.delete(record.podId);
  }

  /** What can be known about an attachment whose record is damaged: its id and the network of today. */
  async #substitute(podId: string, cause: unknown): Promise<AttachmentRecord> {
    if (!(cause instanceof CribError) || cause.code !== "DataLoss") throw cause;
    const readiness = await this.#readies.current();
    if ("problem" in readiness) throw cause;
    log().warn({ podId, error: cause.message }, "CNI DEL with the network as configured now");
    return {
      version: 1,
      podId,
      pod: podId,
      netns: "",
      ifName: INTERFACE,
      cniArgs: "IgnoreUnknown=1",
      capabilityArgs: {},
      network: readiness.network,
    };
  }

  async #collect(network: CniNetwork): Promise<void> {
    if (network.disableGC || !atLeast(network.cniVersion, "1.1.0")) return;
    const podIds = await this.attachments();
    const attachments = podIds.map((containerID) => ({ containerID, ifname: INTERFACE }));
    for (const plugin of network.plugins) {
      const config = {
        ...requestConfig(network, plugin),
        "cni.dev/valid-attachments": attachments,
        // The name that plugins built with the first libcni for 1.1 read.
        "cni.dev/attachments": attachments,
      };
      try {
        const subject = `network ${network.name}`;
        await this.#plugins.call({ verb: "GC", type: plugin.type, config, env: {}, subject });
      } catch (error) {
        log().warn({ error: messageOf(error) }, "CNI GC failed");
      }
    }
  }
}

async function dropLost(networks: CniNetwork[]): Promise<void> {
  try {
    const directories = new Set(networks.flatMap(leaseDirectories));
    const leases = await dropEmptyLeases([...directories], await bootTimeMs());
    if (leases.length > 0) log().warn({ leases }, "dropped leases that a power cut has emptied");
  } catch (error) {
    log().warn({ error: messageOf(error) }, "leases that a power cut has emptied may stay");
  }
}

function readResult(raw: unknown, record: AttachmentRecord): NetworkResult {
  try {
    return parseResult(raw);
  } catch (error) {
    const plugins = record.network.plugins.map((plugin) => plugin.type).join(", ");
    const where = `network ${record.network.name}, pod ${record.pod}`;
    const message = `CNI result of ${plugins} for ${where}: ${messageOf(error)}`;
    throw new CribError("Internal", message);
  }
}
