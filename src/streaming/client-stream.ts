import { Duplex } from "node:stream";
import { log } from "../observe/log.ts";

/** What a stream needs of the connection that it is a part of. */
export interface StreamLink {
  /** Sends data; calls back when the connection takes more. */
  send(stream: ClientStream, chunk: Buffer, callback: () => void): void;
  sendFin(stream: ClientStream): void;
  /** The stream is over; `reset`: the client has to be told. */
  ended(stream: ClientStream, reset: boolean): void;
  /** The stream's `queuedBytes` have changed by so much. */
  queued(stream: ClientStream, changeBytes: number): void;
}

/** What a queued piece costs beside its bytes: a flood of tiny frames has to count as well. */
const PIECE_COST_BYTES = 256;

/**
 * One stream of a connection that has several. `end()` half-closes it, `destroy()` resets it. A reset by
 * the client or the loss of the connection destroys it without an error: "close" comes without "end".
 */
export class ClientStream extends Duplex {
  /** What has come in and nobody has read. */
  queuedBytes = 0;
  readonly #queue: Buffer[] = [];
  #wanted = false;
  /** The client's side is closed: nothing more comes in. */
  #remoteClosed = false;
  /** Our side is closed: FIN was sent. */
  #localClosed = false;
  #remoteReset = false;

  constructor(
    private readonly link: StreamLink,
    readonly id: number,
  ) {
    // Readable itself holds at most one piece, so that the queue here is all there is.
    super({ allowHalfOpen: true, readableHighWaterMark: 1, writableHighWaterMark: 64 * 1024 });
    // Whoever uses a stream sees its end; an error that nobody listens to would end the daemon.
    this.on("error", (error) => log().debug({ error: error.message }, "streaming: stream"));
  }

  /** The connection has data for this stream. What comes after the end is dropped. */
  receive(piece: Buffer, fin: boolean): void {
    if (this.destroyed || this.#remoteClosed) return;
    if (fin) this.#remoteClosed = true;
    if (piece.length > 0) {
      if (this.#wanted) {
        this.#wanted = false;
        this.push(piece);
      } else {
        this.#queue.push(ownCopy(piece));
        this.#account(piece.length + PIECE_COST_BYTES);
      }
    }
    if (fin && this.#queue.length === 0) this.push(null);
  }

  /** The client has reset the stream, or is gone. */
  vanish(): void {
    this.#remoteReset = true;
    this.destroy();
  }

  /** Calls back when all that was written is on its way, or the stream is gone. */
  flushed(callback: () => void): void {
    if (this.destroyed) callback();
    else this.write(EMPTY, () => callback());
  }

  override _read(): void {
    const piece = this.#queue.shift();
    if (piece === undefined) {
      this.#wanted = true;
      return;
    }
    this.#account(-piece.length - PIECE_COST_BYTES);
    this.push(piece);
    if (this.#remoteClosed && this.#queue.length === 0) this.push(null);
  }

  override _write(chunk: Buffer, _: string, callback: () => void): void {
    if (chunk.length === 0) callback();
    else this.link.send(this, chunk, callback);
  }

  override _final(callback: () => void): void {
    this.#localClosed = true;
    this.link.sendFin(this);
    callback();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#queue.length = 0;
    this.#account(-this.queuedBytes);
    // After our FIN a reset could only cost a client that has not read everything yet.
    this.link.ended(this, !this.#remoteReset && !this.#localClosed);
    callback(error);
  }

  #account(changeBytes: number): void {
    if (changeBytes === 0) return;
    this.queuedBytes += changeBytes;
    this.link.queued(this, changeBytes);
  }
}

const EMPTY = Buffer.alloc(0);

/** A small piece must not keep the large buffer alive that it came in. */
function ownCopy(piece: Buffer): Buffer {
  if (piece.length * 2 > piece.buffer.byteLength) return piece;
  const copy = Buffer.allocUnsafeSlow(piece.length);
  piece.copy(copy);
  return copy;
}
