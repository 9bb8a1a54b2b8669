/**
 * `crib unpack`: unpacks one layer from standard input into a directory. Only `crib serve` calls it.
 *
 * A process of its own per layer, so that it can be locked into the layer's directory, lose all
 * privileges that unpacking does not need, and be killed. It does everything synchronously.
 */
import { createHash } from "node:crypto";
import { fsyncSync, readSync, writeSync } from "node:fs";
import { parseArgs } from "node:util";
import { messageOf } from "../error.ts";
import { createDecoder, DecodeError } from "../image/decoder.ts";
import { LayerWriter } from "../image/layer-writer.ts";
import { TarParser } from "../image/tar.ts";
import { LimitError, TarError } from "../image/tar-error.ts";
import type { UnpackReport } from "../image/unpack-report.ts";
import { confine } from "../linux/confine.ts";
import { codeOf } from "../linux/errno.ts";
import { syncFileSystem } from "../linux/file.ts";
import { waitReadable } from "../linux/poll.ts";

const READ_BYTES = 256 * 1024;
const PROGRESS_INTERVAL_MS = 1000;
const EAGAIN_PAUSE_MS = 1;
/** Written at once. */
const INDEX_LINES = 500;

/**
 * `unpack --directory DIR --max-bytes N --max-entries N`. Reports lines of JSON (`UnpackReport`) on
 * standard output; exits 0 when the layer is whole and on disk, else 1.
 */
export function unpack(args: readonly string[]): void {
  let report: UnpackReport;
  try {
    report = run(args);
  } catch (error) {
    report = { kind: "failed", reason: reasonOf(error), message: messageOf(error) };
  }
  say(report);
  process.exit(report.kind === "done" ? 0 : 1);
}

function run(args: readonly string[]): UnpackReport {
  const { values } = parseArgs({
    args: [...args],
    options: {
      directory: { type: "string" },
      "index-fd": { type: "string" },
      "max-bytes": { type: "string" },
      "max-entries": { type: "string" },
    },
  });
  if (values.directory === undefined) throw new Error("--directory is missing");
  const maxBytes = positive(values["max-bytes"], "--max-bytes");
  const maxEntries = positive(values["max-entries"], "--max-entries");
  process.umask(0);
  confine(values.directory, "make");
  const index = new IndexFile(values["index-fd"]);
  const writer = new LayerWriter({
    maxEntries,
    maxHoleBytes: maxBytes,
    index: (line) => index.write(line),
  });
  const { diffId, taken } = pipe(new TarParser(writer), maxBytes, (now) =>
    say({ kind: "progress", ...writer.usage(), taken: now }),
  );
  say({ kind: "taken" });
  const usage = writer.finish();
  index.flush();
  say({ kind: "progress", ...usage, taken });
  // Before the row that makes it a layer: an image must be whole after a power cut.
  syncFileSystem("/");
  index.sync();
  return { kind: "done", diffId, ...usage };
}

/** The list of files goes to a descriptor that the daemon opened: its place is outside of the root. */
class IndexFile {
  readonly #fd: number | undefined;
  #pending: string[] = [];

  constructor(fd: string | undefined) {
    this.#fd = fd === undefined ? undefined : positive(fd, "--index-fd");
  }

  write(line: string): void {
    if (this.#fd === undefined) return;
    this.#pending.push(line);
    if (this.#pending.length >= INDEX_LINES) this.flush();
  }

  flush(): void {
    if (this.#fd === undefined) return;
    const bytes = Buffer.from(this.#pending.join(""));
    this.#pending = [];
    for (let offset = 0; offset < bytes.length; ) offset += writeSync(this.#fd, bytes, offset);
  }

  /** Nothing is left to do where the layer's file system, just synced, is the list's too. */
  sync(): void {
    if (this.#fd !== undefined) fsyncSync(this.#fd);
  }
}

function positive(text: string | undefined, name: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value <= 0) throw new Error(`${name}: not a number`);
  return value;
}

/**
 * Reads standard input to its end through decoder, digest and parser; returns the diffID, and how many bytes
 * it has taken. Calls `tell` with that once a second while bytes come, and when none have come for a second.
 */
function pipe(
  parser: TarParser,
  maxBytes: number,
  tell: (taken: number) => void,
): { diffId: string; taken: number } {
  const hash = createHash("sha256");
  let [taken, bytes] = [0, 0];
  let [toldAt, toldBytes] = [performance.now(), 0];
  const report = (now: number) => {
    [toldAt, toldBytes] = [now, bytes];
    tell(taken);
  };
  const decoder = createDecoder((chunk) => {
    bytes += chunk.length;
    if (bytes > maxBytes) {
      throw new LimitError(`more than ${maxBytes} bytes unpacked (image.max_layer_bytes)`);
    }
    hash.update(chunk);
    parser.push(chunk);
    const now = performance.now();
    if (now - toldAt >= PROGRESS_INTERVAL_MS) report(now);
  });
  const input = Buffer.alloc(READ_BYTES);
  for (;;) {
    if (!waitReadable(0, PROGRESS_INTERVAL_MS) && bytes > toldBytes) report(performance.now());
    const count = read(input);
    if (count === 0) break;
    decoder.write(input.subarray(0, count));
    taken += count;
  }
  decoder.end();
  parser.finish();
  return { diffId: `sha256:${hash.digest("hex")}`, taken };
}

function read(input: Buffer): number {
  for (;;) {
    try {
      return readSync(0, input, 0, input.length, null);
    } catch (error) {
      if (codeOf(error) !== "EAGAIN") throw error;
      Bun.sleepSync(EAGAIN_PAUSE_MS);
    }
  }
}

function say(report: UnpackReport): void {
  writeSync(1, `${JSON.stringify(report)}\n`);
}

function reasonOf(error: unknown): Extract<UnpackReport, { kind: "failed" }>["reason"] {
  if (error instanceof LimitError) return "limit";
  if (error instanceof TarError) return "archive";
  if (error instanceof DecodeError) return "decode";
  const code = codeOf(error);
  return code === "ENOSPC" || code === "EDQUOT" ? "disk-full" : "system";
}
