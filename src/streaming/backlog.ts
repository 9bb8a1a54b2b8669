import type { ClientStream } from "./client-stream.ts";

/** What one stream, and all of a connection, may have that nobody reads before the client has to wait. */
const STREAM_LIMIT_BYTES = 256 * 1024;
const CONNECTION_LIMIT_BYTES = 1024 * 1024;

/**
 * What a connection's streams hold that nobody has read, and whether that is too much. A client that
 * has to wait goes on at half of the limits.
 */
export class Backlog {
  readonly #streams = new Set<ClientStream>();
  #bytes = 0;
  #full = false;

  /** @param changed Is called whenever `full` has changed. */
  constructor(private readonly changed: () => void) {}

  /** Whether the client has to wait. */
  get full(): boolean {
    return this.#full;
  }

  /** The stream's `queuedBytes` have changed by so much; a stream that has ended must have none. */
  queued(stream: ClientStream, changeBytes: number): void {
    this.#bytes += changeBytes;
    if (stream.queuedBytes > STREAM_LIMIT_BYTES) this.#streams.add(stream);
    else if (stream.queuedBytes <= STREAM_LIMIT_BYTES / 2) this.#streams.delete(stream);
    const limitBytes = CONNECTION_LIMIT_BYTES / (this.#full ? 2 : 1);
    const full = this.#streams.size > 0 || this.#bytes > limitBytes;
    if (full === this.#full) return;
    this.#full = full;
    this.changed();
  }
}
