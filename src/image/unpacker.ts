/** The daemon's side of `crib unpack`: feeds a layer to a child and waits for its report. */
import { closeSync, openSync } from "node:fs";
import * as v from "valibot";
import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import type { ChildCommand, Confinement } from "./confined-child.ts";
import { canceled } from "./http.ts";
import type { UnpackReport } from "./unpack-report.ts";
import { unpackReportSchema } from "./unpack-report.ts";

export interface UnpackOptions {
  child: ChildCommand;
  /** An empty directory, which becomes the layer. */
  directory: string;
  /** Takes the layer's list of files; replaced. */
  indexFile: string;
  maxBytes: number;
  maxEntries: number;
  noProgressMs: number;
  /** Gets what the layer takes on disk until now, about once a second. */
  onUsage?: (usage: { bytes: number; inodes: number }) => void;
  /** Names the layer in messages. */
  what: string;
}

type Done = Extract<UnpackReport, { kind: "done" }>;

const LINE_LIMIT = 64 * 1024;
const STDERR_LIMIT = 2000;
/** Of a layer whose archive looks bad, to find out whether it only came so. */
const READ_ON_LIMIT_BYTES = 256 * 1024 * 1024;
/**
 * Nothing of the daemon's: BUN_* would change what the executable is. Without JavaScriptCore's last
 * compiler 20,000 small files take a fifth less time, and large ones as much as with it.
 */
const ENVIRONMENT = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", BUN_JSC_useFTLJIT: "0" };
/** When it has taken all bytes the child writes back to disk; it says nothing while the kernel does that. */
const SYNC_LIMIT_MS = 15 * 60 * 1000;

/** The layer's directory is all that it has. */
export function unpackConfinement(directory: string): Confinement {
  const ofOwners = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"] as const;
  // Devices and whiteouts; files' capabilities; extended attributes trusted.*.
  return { capabilities: [...ofOwners, "MKNOD", "SETFCAP", "SYS_ADMIN"], root: directory };
}

/**
 * Unpacks the bytes of a layer. When `layer` throws (a broken connection, a wrong digest), the child is
 * killed and the error goes on. What was written stays in the directory: the caller deletes it.
 *
 * @throws CribError ResourceExhausted: the disk is full; DataLoss: the compression is damaged;
 *   FailedPrecondition: the archive is not one that can be a layer; DeadlineExceeded: no progress.
 */
export async function unpackLayer(
  layer: AsyncIterable<Uint8Array>,
  options: UnpackOptions,
  signal: AbortSignal,
): Promise<Done> {
  const child = new UnpackChild(options);
  const abort = () => child.kill(canceled(signal));
  signal.addEventListener("abort", abort, { once: true });
  try {
    if (signal.aborted) abort();
    await child.feed(layer);
    return await child.result();
  } catch (error) {
    child.kill(error);
    await child.result().catch(() => {});
    throw error;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

class UnpackChild {
  readonly #options: UnpackOptions;
  readonly #process;
  readonly #result: Promise<Done>;
  #killedBy: unknown;
  #last: UnpackReport | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #ended = false;
  /** Compressed bytes, as far as the child has said. */
  #taken = 0;
  #allTaken = false;

  constructor(options: UnpackOptions) {
    this.#options = options;
    const { child, directory, indexFile, maxBytes, maxEntries } = options;
    const index = openSync(indexFile, "w", 0o600);
    try {
      this.#process = Bun.spawn({
        cmd: child(unpackConfinement(directory), [
          "unpack",
          ...["--directory", directory, "--index-fd", "3"],
          ...["--max-bytes", String(maxBytes), "--max-entries", String(maxEntries)],
        ]),
        env: ENVIRONMENT,
        cwd: "/",
        stdio: ["pipe", "pipe", "pipe", index],
      });
    } finally {
      closeSync(index);
    }
    this.#result = this.#collect();
    this.#result.catch(() => {});
  }

  /** Ends the child; `cause` is what `result` rejects with, unless it was killed before. */
  kill(cause: unknown): void {
    if (this.#ended) return;
    this.#killedBy ??= cause;
    this.#process.kill("SIGKILL");
  }

  result(): Promise<Done> {
    return this.#result;
  }

  async feed(layer: AsyncIterable<Uint8Array>): Promise<void> {
    const { stdin } = this.#process;
    let gone = false;
    let readOnBytes = 0;
    for await (const chunk of layer) {
      if (this.#killedBy !== undefined) break;
      if (gone || this.#ended) {
        // Read on when the archive looks bad: its digest tells whether it only came so.
        readOnBytes += chunk.length;
        if (readOnBytes > READ_ON_LIMIT_BYTES || !(await this.#looksDamaged())) break;
        continue;
      }
      // Only while the child has something to do: the registry's silence is not its fault.
      this.#watch(this.#options.noProgressMs);
      try {
        // A pipe that is full makes both promises; that of a child which is gone then fails in one or both.
        Promise.resolve(stdin.write(chunk)).catch(() => {
          gone = true;
        });
        await stdin.flush();
      } catch {
        gone = true; // Its report says why, and it has to come in time.
      }
      if (!gone) this.#unwatch();
    }
    // The last bytes may still lie in the pipe.
    this.#watch(this.#options.noProgressMs);
    try {
      await stdin.end();
    } catch {
      // As above.
    }
  }

  async #looksDamaged(): Promise<boolean> {
    await this.#result.catch(() => {});
    const report = this.#last;
    return report?.kind === "failed" && ["archive", "decode"].includes(report.reason);
  }

  async #collect(): Promise<Done> {
    const stderr = readStart(this.#process.stderr, STDERR_LIMIT);
    try {
      await this.#readReports();
    } catch (error) {
      this.kill(error);
    }
    const exitCode = await this.#process.exited;
    this.#ended = true;
    this.#unwatch();
    if (this.#killedBy !== undefined) throw this.#killedBy;
    const { what } = this.#options;
    const report = this.#last;
    if (report?.kind === "done" && exitCode === 0) {
      if (report.warnings.length > 0) {
        log().warn(
          { layer: what, warnings: report.warnings },
          "a layer is unpacked without parts of it",
        );
      }
      return report;
    }
    if (report?.kind === "failed") throw toError(report, what);
    const detail = `${this.#process.signalCode ?? `exit code ${exitCode}`} ${await stderr}`.trim();
    throw new CribError("Internal", `${what}: crib unpack ended without a result: ${detail}`);
  }

  async #readReports(): Promise<void> {
    const decoder = new TextDecoder();
    let text = "";
    for await (const chunk of this.#process.stdout) {
      text += decoder.decode(chunk, { stream: true });
      const lines = text.split("\n");
      text = lines.pop() ?? "";
      if (text.length > LINE_LIMIT) throw new Error("crib unpack: a line without an end");
      for (const line of lines) this.#take(v.parse(unpackReportSchema, JSON.parse(line)));
    }
  }

  #take(report: UnpackReport): void {
    this.#last = report;
    if (report.kind === "taken" && !this.#allTaken) {
      this.#allTaken = true;
      this.#watch(Math.max(SYNC_LIMIT_MS, this.#options.noProgressMs));
    }
    if (report.kind === "progress") this.#progress(report.taken);
    if (report.kind === "progress" || report.kind === "done") this.#options.onUsage?.(report);
  }

  /** What is said counts for nothing: only a child that takes bytes goes on. */
  #progress(taken: number): void {
    if (this.#allTaken || taken <= this.#taken) return;
    this.#taken = taken;
    if (this.#timer !== undefined) this.#watch(this.#options.noProgressMs);
  }

  /** Kills the child unless it goes on within the limit. */
  #watch(limitMs: number): void {
    this.#unwatch();
    if (this.#ended) return;
    const { what } = this.#options;
    this.#timer = setTimeout(() => {
      const seconds = limitMs / 1000;
      this.kill(new CribError("DeadlineExceeded", `${what}: no progress for ${seconds} seconds`));
    }, limitMs);
  }

  #unwatch(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

function toError(report: Extract<UnpackReport, { kind: "failed" }>, what: string): CribError {
  const message = `${what}: ${report.message}`;
  switch (report.reason) {
    case "disk-full":
      return new CribError("ResourceExhausted", message);
    case "decode":
      return new CribError("DataLoss", message);
    case "archive":
    case "limit":
      return new CribError("FailedPrecondition", message);
    case "system":
      return new CribError("Internal", message);
  }
}

async function readStart(stream: ReadableStream<Uint8Array>, limit: number): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  try {
    for await (const chunk of stream) {
      if (text.length < limit) text += decoder.decode(chunk, { stream: true });
    }
  } catch (error) {
    text += messageOf(error);
  }
  return text.slice(0, limit);
}
