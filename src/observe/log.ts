/**
 * Logs: one pino logger for the process, and a child of it for each request.
 *
 * Code anywhere in the core calls `log()`; the request's id travels with the asynchronous context, so
 * that one id finds every line of a request.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { destination, type Logger, pino } from "pino";

export type { Logger } from "pino";

/** How the log is written: `auto` is pretty on a terminal, JSON elsewhere. */
export interface LogOptions {
  level: "trace" | "debug" | "info" | "warn" | "error";
  format: "auto" | "json" | "pretty";
}

const current = new AsyncLocalStorage<{ fields: Record<string, unknown>; logger: Logger }>();
let root: Logger = pino({ level: "silent" });

/** Starts logging to standard error. Until then nothing is logged (tests, short subcommands). */
export async function startLog(options: LogOptions): Promise<void> {
  const pretty =
    options.format === "pretty" || (options.format === "auto" && process.stderr.isTTY === true);
  const settings = {
    level: options.level,
    base: undefined,
    timestamp: pino.stdTimeFunctions.isoTime,
  };
  if (pretty) {
    const { default: prettify } = await import("pino-pretty");
    root = pino(settings, prettify({ destination: 2, sync: true, colorize: process.stderr.isTTY }));
  } else {
    root = pino(settings, destination({ dest: 2, sync: true }));
  }
}

/** Changes what is logged from now on; requests under way keep their level. */
export function setLogLevel(level: LogOptions["level"]): void {
  root.level = level;
}

/** The logger of the current request, or the process's own. */
export function log(): Logger {
  return current.getStore()?.logger ?? root;
}

/** Runs `body` outside the current request: what a monitor reports is no part of the call that started it. */
export function withoutRequest<T>(fields: Record<string, unknown>, body: () => T): T {
  return current.run({ fields, logger: root.child(fields) }, body);
}

/** Runs `body` with a logger that adds `fields` (a request id, a pod id) to each of its lines. */
export function withLog<T>(fields: Record<string, unknown>, body: () => T): T {
  // Anew from the root: a field that is given again replaces the outer one.
  const merged = { ...current.getStore()?.fields, ...fields };
  return current.run({ fields: merged, logger: root.child(merged) }, body);
}
