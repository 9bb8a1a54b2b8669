/** What a service manager wants of the daemon: signs of life, and a reload on SIGHUP. */

import { changedKeys } from "../config/changes.ts";
import type { Config } from "../config/config.ts";
import { messageOf } from "../error.ts";
import { monotonicUsec, type Notifier } from "../linux/notify.ts";
import { log, setLogLevel } from "../observe/log.ts";

/** Keys that a reload applies; all others wait for a restart, which pods do not notice. */
const APPLIED_AT_ONCE = new Set(["log.level"]);

export interface ReloadOptions {
  /** What the daemon runs with. */
  config: Config;
  /** Reads the configuration again, from the same sources. */
  load: () => Promise<Config>;
  notifier: Notifier;
  /** Resolves when the daemon is up; a reload that was asked for earlier waits. */
  up: Promise<void>;
}

/** From now on SIGHUP reads the configuration again; one that is not valid changes nothing. */
export function reloadOnHangup(options: ReloadOptions): void {
  let running = options.config;
  let last = options.up;
  process.on("SIGHUP", () => {
    last = last.then(async () => {
      running = await reload(running, options);
    });
  });
}

async function reload(
  running: Config,
  { load, notifier }: Pick<ReloadOptions, "load" | "notifier">,
): Promise<Config> {
  await tell(notifier, "RELOADING=1", `MONOTONIC_USEC=${monotonicUsec()}`);
  try {
    const next = await load();
    const changed = changedKeys(running, next);
    const applied = changed.filter((key) => APPLIED_AT_ONCE.has(key));
    const needRestart = changed.filter((key) => !APPLIED_AT_ONCE.has(key));
    setLogLevel(next.log.level);
    log().info({ applied, needRestart }, "configuration reloaded");
    if (needRestart.length > 0) {
      const keys = needRestart.join(", ");
      log().warn(`${keys}: changed, and in effect after a restart (pods live on)`);
    }
    return { ...running, log: { ...running.log, level: next.log.level } };
  } catch (error) {
    log().error({ error: messageOf(error) }, "reload: not valid, nothing was changed");
    return running;
  } finally {
    await tell(notifier, "READY=1");
  }
}

/**
 * Tells the manager "WATCHDOG=1", several times within its interval, as long as `selfCheck` succeeds.
 * A daemon whose own socket does not answer goes silent and is started again. One that is only slow, on a
 * node with too much to do, is not: an answer counts that comes before the interval is over, and after a
 * failure it is asked again soon.
 *
 * @returns the way to end it.
 */
export function feedWatchdog(
  notifier: Notifier,
  selfCheck: (deadlineMs: number) => Promise<void>,
): () => void {
  if (notifier.watchdogMs === undefined) return () => undefined;
  const pauseMs = notifier.watchdogMs / 6;
  const deadlineMs = notifier.watchdogMs / 2;
  let ended = false;
  const beat = async () => {
    let nextMs = pauseMs;
    try {
      await selfCheck(deadlineMs);
      if (!ended) await tell(notifier, "WATCHDOG=1");
    } catch (error) {
      if (ended) return;
      log().error({ error: messageOf(error) }, "watchdog: the daemon's own socket does not answer");
      nextMs = pauseMs / 10;
    }
    if (!ended) setTimeout(beat, nextMs).unref();
  };
  void beat();
  return () => {
    ended = true;
  };
}

/** A manager that cannot be told is no reason to stop: it has its own time-outs. */
export async function tell(notifier: Notifier, ...lines: string[]): Promise<void> {
  try {
    await notifier.send(...lines);
  } catch (error) {
    log().warn({ error: messageOf(error), message: lines[0] }, "cannot tell the service manager");
  }
}
