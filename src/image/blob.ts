/** Blobs: streamed, resumed where a connection broke, and never believed before digest and size. */
import { createHash } from "node:crypto";
import { CribError } from "../error.ts";
import { pause, UnavailableError } from "./http.ts";
import type { Descriptor } from "./manifest.ts";

/** What blobs can be had from: a registry, or an archive. */
export interface BlobSource {
  /** For messages. */
  readonly name: string;
  /**
   * A blob's bytes from `offset` on, or from where the result says that they begin. Pieces are only lent.
   *
   * @throws CribError; `UnavailableError` is worth another try.
   */
  blob(
    digest: string,
    offset: number,
  ): Promise<{
    offset: number;
    response: { chunks(): AsyncGenerator<Uint8Array, void, void> };
  }>;
}

const ATTEMPTS = 4;
/** However much each connection brings, so many broken ones are too many. */
const CONNECTION_LIMIT = 100;
const FIRST_PAUSE_MS = 200;
const PAUSE_LIMIT_MS = 5000;

/** Runs `body` again, later each time, while it throws `UnavailableError`. `wait` is for tests. */
export async function retry<T>(
  attempts: number,
  signal: AbortSignal,
  body: () => Promise<T>,
  wait = pause,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await body();
    } catch (error) {
      if (!(error instanceof UnavailableError) || attempt >= attempts) throw error;
      await wait(pauseMs(attempt, error), signal);
    }
  }
}

function pauseMs(attempt: number, error: UnavailableError): number {
  const backoff = Math.min(FIRST_PAUSE_MS * 2 ** (attempt - 1), PAUSE_LIMIT_MS);
  // Spread out, so that a node's pulls do not come back all at once.
  return Math.max(error.retryAfterMs, backoff * (0.75 + Math.random() / 2));
}

/**
 * The bytes of a blob, lent piece by piece, from the first client that has it; when one fails, the next
 * goes on where it stopped. The digest is compared after the last byte: whoever uses the bytes before the
 * generator has ended must be able to undo it.
 *
 * @throws CribError DataLoss: other bytes, or more or fewer, than the descriptor says; otherwise the
 *   last client's error.
 */
export async function* streamBlob(
  clients: readonly BlobSource[],
  descriptor: Pick<Descriptor, "digest" | "size">,
  signal: AbortSignal,
  wait = pause,
): AsyncGenerator<Uint8Array, void, void> {
  const { digest, size } = descriptor;
  const colon = digest.indexOf(":");
  const hash = createHash(digest.slice(0, colon));
  const queue = [...clients];
  let offset = 0;
  let failures = 0;
  for (let connection = 1; offset < size; connection++) {
    const client = queue[0];
    if (client === undefined) throw new CribError("Internal", `blob ${digest}: no registry`);
    try {
      for await (const chunk of blobFrom(client, digest, size, offset)) {
        offset += chunk.length;
        failures = 0;
        hash.update(chunk);
        yield chunk;
      }
    } catch (error) {
      failures += 1;
      if (signal.aborted || !(error instanceof CribError)) throw error;
      const again = error instanceof UnavailableError && failures < ATTEMPTS;
      if (connection >= CONNECTION_LIMIT || (!again && queue.length === 1)) throw error;
      if (again) await wait(pauseMs(failures, error), signal);
      else {
        queue.shift();
        failures = 0;
      }
    }
  }
  const actual = hash.digest("hex");
  if (actual !== digest.slice(colon + 1)) {
    const name = clients[0]?.name ?? "registry";
    throw new CribError("DataLoss", `${name}: blob ${digest}: its bytes have digest ${actual}`);
  }
}

/** One connection's bytes after `offset`; ends when the blob is whole, else throws. */
async function* blobFrom(
  client: BlobSource,
  digest: string,
  size: number,
  offset: number,
): AsyncGenerator<Uint8Array, void, void> {
  const what = `${client.name}: blob ${digest}`;
  const answer = await client.blob(digest, offset);
  let position = answer.offset;
  for await (const chunk of answer.response.chunks()) {
    const from = Math.max(0, offset - position);
    position += chunk.length;
    if (position > size) {
      throw new CribError("DataLoss", `${what}: longer than the ${size} bytes of its descriptor`);
    }
    if (from < chunk.length) yield from === 0 ? chunk : chunk.subarray(from);
  }
  if (position < size) throw new UnavailableError(`${what}: ends at ${position} of ${size} bytes`);
}

/** A small blob in memory. Throws as `streamBlob`, and FailedPrecondition above `limitBytes`. */
export async function readBlob(
  clients: readonly BlobSource[],
  descriptor: Pick<Descriptor, "digest" | "size">,
  limitBytes: number,
  signal: AbortSignal,
): Promise<Buffer> {
  if (descriptor.size > limitBytes) {
    const { digest, size } = descriptor;
    throw new CribError(
      "FailedPrecondition",
      `blob ${digest}: ${size} bytes, at most ${limitBytes}`,
    );
  }
  const pieces: Uint8Array[] = [];
  for await (const piece of streamBlob(clients, descriptor, signal))
    pieces.push(Buffer.from(piece));
  return Buffer.concat(pieces);
}
