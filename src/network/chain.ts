/**
 * Runs a network's plugins for one attachment. Source: CNI specification 1.1.0, section 3.
 */
import { statfsSync } from "node:fs";
import { log } from "../observe/log.ts";
import { atLeast, type CniNetwork, type PluginConfig } from "./conflist.ts";
import { PluginError, type Plugins } from "./plugin.ts";
import type { AttachmentRecord } from "./record.ts";

/** "Try again later" of section 5. */
const TRY_AGAIN_LATER = 11;
/** Waits before an attempt is repeated that a plugin asked to repeat. */
const RETRY_DELAYS_MS = [250, 1000, 3000];
const NSFS_MAGIC = 0x6e736673;

/**
 * ADD by every plugin in order; returns what the last one returned. The plugins inherit `hold`, so that
 * its lock tells whether one of them still runs, even when this daemon does not.
 */
export async function addChain(
  plugins: Plugins,
  record: AttachmentRecord,
  hold: number,
): Promise<unknown> {
  let prevResult: unknown;
  for (const plugin of record.network.plugins) {
    const result = await plugins.call({
      verb: "ADD",
      type: plugin.type,
      config: requestConfig(record.network, plugin, record.capabilityArgs, prevResult),
      env: environment(record, record.netns),
      subject: subjectOf(record),
      hold,
    });
    // Plugins that only adjust things sometimes return nothing, although they should pass it through.
    prevResult = result ?? prevResult;
  }
  return prevResult;
}

/** DEL by every plugin in reverse order; stops at the first that fails, as it is repeated later. */
export async function delChain(plugins: Plugins, record: AttachmentRecord): Promise<void> {
  const { network } = record;
  const prevResult = atLeast(network.cniVersion, "0.4.0") ? record.result : undefined;
  const netns = isNamespace(record.netns) ? record.netns : "";
  for (const plugin of network.plugins.toReversed()) {
    await retryLater(() =>
      plugins.call({
        verb: "DEL",
        type: plugin.type,
        config: requestConfig(network, plugin, record.capabilityArgs, prevResult),
        env: environment(record, netns),
        subject: subjectOf(record),
      }),
    );
  }
}

/** Repeats what a plugin asked to repeat later, a few times. */
export async function retryLater<T>(attempt: () => Promise<T>): Promise<T> {
  for (const delayMs of RETRY_DELAYS_MS) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof PluginError && error.cniCode === TRY_AGAIN_LATER)) throw error;
      log().warn({ error: error.message, delayMs }, "a CNI plugin asked to try again later");
      await Bun.sleep(delayMs);
    }
  }
  return attempt();
}

/** The configuration that a plugin gets: its own, plus what the specification adds, less what it bans. */
export function requestConfig(
  network: CniNetwork,
  plugin: PluginConfig,
  capabilityArgs: Record<string, unknown> = {},
  prevResult?: unknown,
): Record<string, unknown> {
  const { capabilities, ...own } = plugin;
  const runtimeConfig = Object.fromEntries(
    Object.entries(capabilityArgs).filter(([name]) => capabilities?.[name] === true),
  );
  return {
    ...own,
    name: network.name,
    cniVersion: network.cniVersion,
    ...(Object.keys(runtimeConfig).length === 0 ? {} : { runtimeConfig }),
    ...(prevResult === undefined ? {} : { prevResult }),
  };
}

function environment(record: AttachmentRecord, netns: string): Record<string, string> {
  return {
    CNI_CONTAINERID: record.podId,
    CNI_NETNS: netns,
    CNI_IFNAME: record.ifName,
    CNI_ARGS: record.cniArgs,
  };
}

function subjectOf(record: AttachmentRecord): string {
  return `network ${record.network.name}, pod ${record.pod}`;
}

/** Whether a path is still a namespace; a pin that was unmounted leaves an empty file. */
function isNamespace(path: string): boolean {
  try {
    return path !== "" && statfsSync(path).type === NSFS_MAGIC;
  } catch {
    return false;
  }
}
