import { closeSync } from "node:fs";
import type { Socket } from "bun";
import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { withDeadline } from "./deadline.ts";
import { type Frame, FrameParser } from "./frame.ts";
import { Answer, decodeError } from "./protocol.ts";
import { openDirectory } from "./stream.ts";

interface Pending {
  /** For frames that belong to the request but do not end it. */
  onPart?: (frame: Frame) => void;
  resolve(payload: Uint8Array): void;
  reject(error: Error): void;
  timer: Timer | undefined;
}

export interface CallOptions {
  /** 0: none. Default: the connection's. */
  limitMs?: number;
  onPart?: (frame: Frame) => void;
}

/**
 * The control connection to a monitor: numbered requests, each with one reply, and events.
 *
 * Every request fails with `Unavailable` when the monitor or the connection is gone, with
 * `DeadlineExceeded` when it answers too late, and with the monitor's own code otherwise.
 */
export class Connection {
  /** Resolves when the monitor died, was shut down, or another daemon took the connection. */
  readonly closed: Promise<void>;
  private socket: Socket | undefined;
  private unsent: Uint8Array[] = [];
  private readonly pending = new Map<number, Pending>();
  private lastRequest = 0;
  private markClosed: () => void = () => {};

  private constructor(
    readonly directory: string,
    readonly deadlineMs: number,
    private readonly onEvent: (frame: Frame) => void,
  ) {
    this.closed = new Promise((resolve) => {
      this.markClosed = resolve;
    });
  }

  /** @param onEvent for what answers no request. */
  static async open(
    directory: string,
    deadlineMs: number,
    onEvent: (frame: Frame) => void,
  ): Promise<Connection> {
    const connection = new Connection(directory, deadlineMs, onEvent);
    await connection.connect();
    return connection;
  }

  /** Sends a request; its number, and the payload of the reply. */
  call(
    encode: (request: number) => Uint8Array,
    { limitMs = this.deadlineMs, onPart }: CallOptions = {},
  ): { request: number; reply: Promise<Uint8Array> } {
    this.lastRequest = (this.lastRequest % 0x7fffffff) + 1;
    const request = this.lastRequest;
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    const bytes = encode(request);
    if (this.socket === undefined) return { request, reply: Promise.reject(this.gone()) };
    const expire = () => {
      this.pending.delete(request);
      const text = `pod monitor in ${this.directory}: no answer within ${limitMs} ms`;
      reject(new CribError("DeadlineExceeded", text));
    };
    const timer = limitMs > 0 ? setTimeout(expire, limitMs) : undefined;
    this.pending.set(request, { onPart, resolve, reject, timer });
    this.unsent.push(bytes);
    this.flush();
    return { request, reply: promise };
  }

  /** Leaves the monitor as it is; `closed` resolves. */
  disconnect(): void {
    this.socket?.terminate();
    this.close();
  }

  private async connect(): Promise<void> {
    const directory = openDirectory(this.directory);
    const parser = new FrameParser((frame) => this.receive(frame));
    try {
      const connecting = Bun.connect({
        unix: directory.socketPath,
        socket: {
          data: (_, chunk) => this.parse(parser, chunk),
          drain: () => this.flush(),
          close: () => this.close(),
          error: (_, error) => {
            log().warn({ directory: this.directory, error: error.message }, "pod monitor socket");
          },
        },
      });
      this.socket = await withDeadline(connecting, this.deadlineMs, "pod monitor: connect").catch(
        (error: unknown) => {
          // Should it come after all, nobody waits for it any more.
          void connecting.then((socket) => socket.terminate()).catch(() => undefined);
          throw error;
        },
      );
    } catch (error) {
      const where = `pod monitor in ${this.directory}`;
      throw new CribError("Unavailable", `${where}: ${messageOf(error)}`, { cause: error });
    } finally {
      closeSync(directory.fd);
    }
  }

  private flush(): void {
    while (this.socket !== undefined) {
      const bytes = this.unsent[0];
      if (bytes === undefined) return;
      const sent = this.socket.write(bytes);
      if (sent < bytes.length) {
        if (sent > 0) this.unsent[0] = bytes.subarray(sent);
        return;
      }
      this.unsent.shift();
    }
  }

  private parse(parser: FrameParser, chunk: Uint8Array): void {
    try {
      parser.push(chunk);
    } catch (error) {
      log().error({ directory: this.directory, error: messageOf(error) }, "pod monitor protocol");
      this.disconnect();
    }
  }

  private receive(frame: Frame): void {
    if (frame.type === Answer.exit || frame.type === Answer.pauseEnded) {
      this.onEvent(frame);
      return;
    }
    const pending = this.pending.get(frame.request);
    if (pending === undefined) return;
    const isReply = (frame.type & 0xc000) === Answer.reply;
    if (!isReply && frame.type !== Answer.error) {
      this.part(frame, pending);
      return;
    }
    // First: should it throw, the request is still among those that the lost connection ends.
    const error = isReply ? undefined : decodeError(frame.payload);
    this.pending.delete(frame.request);
    clearTimeout(pending.timer);
    if (error === undefined) pending.resolve(frame.payload.slice());
    else pending.reject(error);
  }

  /** What the receiver throws ends its own request, not the connection. */
  private part(frame: Frame, pending: Pending): void {
    try {
      pending.onPart?.(frame);
    } catch (error) {
      this.pending.delete(frame.request);
      clearTimeout(pending.timer);
      pending.reject(error instanceof Error ? error : new Error(String(error)));
    }
  }

  private gone(): CribError {
    return new CribError("Unavailable", `pod monitor in ${this.directory} is gone`);
  }

  private close(): void {
    if (this.socket === undefined) return;
    this.socket = undefined;
    this.unsent = [];
    for (const { reject, timer } of this.pending.values()) {
      clearTimeout(timer);
      reject(this.gone());
    }
    this.pending.clear();
    this.markClosed();
  }
}
