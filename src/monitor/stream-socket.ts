import { Duplex } from "node:stream";
import type { Socket, SocketHandler } from "bun";

/** Where to connect: a unix socket, or (for tests) a TCP port. */
export type StreamAddress = { unix: string } | { hostname: string; port: number };

/**
 * A connection as a stream, half-open: `end()` leaves what the other side still says to be read. It has
 * nothing that has not been asked for: node:net's sockets go on to read while nobody reads them, in Bun
 * 64 KiB and more, and hundreds of connections make that tens of MB. Errors are also its end: nobody
 * need listen.
 */
export class StreamSocket extends Duplex {
  /** As sockets of node:net count it. */
  bytesRead = 0;
  /** Undefined when the connection is closed. */
  #socket: Socket | undefined;
  /** Somebody reads; nothing is buffered then. */
  #wanted = false;
  #held = false;
  #paused = false;
  /** The other side has ended, and this has not been told yet. */
  #ended = false;
  #broken: Promise<Error | undefined> | undefined;
  #unsent: { bytes: Buffer; callback: (error?: Error | null) => void } | undefined;

  private constructor() {
    super({ allowHalfOpen: true, readableHighWaterMark: 1 });
    this.on("error", () => undefined);
  }

  /** @throws Error: nobody listens there. */
  static async connect(address: StreamAddress): Promise<StreamSocket> {
    const stream = new StreamSocket();
    const socket: SocketHandler<undefined> = {
      open: (it) => stream.#open(it),
      data: (_, chunk) => stream.#data(chunk),
      drain: () => stream.#flush(),
      end: () => stream.#end(),
      close: (_, error) => stream.#closed(error),
      error: (_, error) => void stream.destroy(error),
    };
    const options = { allowHalfOpen: true, socket };
    await ("unix" in address
      ? Bun.connect({ ...options, unix: address.unix })
      : Bun.connect({ ...options, hostname: address.hostname, port: address.port }));
    return stream;
  }

  /** What is asked, when the other side has ended, for the error that it ended with. */
  endsWith(broken: Promise<Error | undefined>): void {
    this.#broken = broken;
  }

  /** Reads nothing, whoever wants it, until it is released. */
  hold(held: boolean): void {
    this.#held = held;
    this.#flow();
  }

  override _read(): void {
    this.#wanted = true;
    if (this.#ended) void this.#tellEnd();
    else this.#flow();
  }

  override _write(chunk: Buffer, _: string, callback: (error?: Error | null) => void): void {
    if (this.#socket === undefined) {
      callback(gone());
      return;
    }
    this.#unsent = { bytes: chunk, callback };
    this.#flush();
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.#socket?.shutdown();
    callback();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    // By TCP, `terminate` would also take back what is still on its way.
    if (this.readableEnded && this.writableFinished) this.#socket?.end();
    else this.#socket?.terminate();
    this.#socket = undefined;
    callback(error);
  }

  #open(socket: Socket): void {
    this.#socket = socket;
    if (this.destroyed) socket.terminate();
    else this.#flow();
  }

  #data(chunk: Buffer): void {
    if (this.destroyed) return;
    this.bytesRead += chunk.length;
    this.#wanted = this.push(chunk);
    this.#flow();
  }

  #flow(): void {
    const pause = this.#held || !this.#wanted;
    if (pause === this.#paused || this.#socket === undefined) return;
    this.#paused = pause;
    if (pause) this.#socket.pause();
    else this.#socket.resume();
  }

  #flush(): void {
    if (this.#unsent === undefined || this.#socket === undefined) return;
    const { bytes, callback } = this.#unsent;
    const sent = this.#socket.write(bytes);
    if (sent >= 0 && sent < bytes.length) {
      this.#unsent = { bytes: bytes.subarray(sent), callback };
      return;
    }
    this.#unsent = undefined;
    callback(sent < 0 ? gone() : null);
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    if (this.#wanted) void this.#tellEnd();
  }

  /** Behind all that has been read: that is why it waits until somebody wants more. */
  async #tellEnd(): Promise<void> {
    this.#wanted = false;
    const error = await this.#broken;
    if (error === undefined) this.push(null);
    else this.destroy(error);
  }

  #closed(error: Error | undefined): void {
    this.#socket = undefined;
    if (error === undefined) this.#end();
    else this.destroy(error);
    const unsent = this.#unsent;
    this.#unsent = undefined;
    unsent?.callback(gone());
  }
}

function gone(): Error {
  return new Error("the other side is gone");
}
