import type { Duplex } from "node:stream";
import { messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { Heartbeat } from "./heartbeat.ts";
import {
  CloseCode,
  closeFrame,
  FrameParser,
  frame,
  frameHeader,
  type MessagePiece,
  type OpcodeName,
  WebSocketError,
} from "./websocket-frames.ts";

/**
 * How long the client may take to close its side after everything has been sent; or to fetch that, when
 * it has failed, left or was idle.
 */
const LINGER_MS = 30_000;
/** Below this, header and payload go out as one piece: it costs less than a second system call. */
const JOIN_BYTES = 8 * 1024;

/** What the owner of a connection does with what it hears. It may throw a WebSocketError. */
export interface WebSocketHandler {
  message(piece: MessagePiece): void;
  /** The client has said farewell: no message comes any more. */
  farewell(): void;
}

/**
 * The server's side of a WebSocket whose upgrade has been answered. Pings are answered, what is no
 * frame closes the connection, and so does silence in both directions for `idleTimeoutMs`.
 */
export class WebSocketConnection {
  /** Resolves when nothing more can be exchanged with the client, whoever ended it. */
  readonly over: Promise<void>;
  /** Resolves when the connection is gone. */
  readonly closed: Promise<void>;
  /** Is told when the client takes nothing for now, and when it does again. */
  onBlocked: (blocked: boolean) => void = () => {};
  #markOver: () => void = () => {};
  /** The transport is full until it has drained; these wait for that. */
  readonly #waiting: Array<() => void> = [];
  #blocked = false;
  /** The last ping that a client sent that does not read: older ones need no answer. */
  #unanswered: Buffer | undefined;
  #paused = false;
  /** A pong that was not asked for: RFC 6455, section 5.5.3, wants no answer to it. */
  readonly #heartbeat = new Heartbeat(() => {
    if (!this.#blocked) this.transport.write(frame("pong", Buffer.alloc(0)));
  });
  /** A close frame has been sent: what comes in does not count any more. */
  #ending = false;
  #activeMs = performance.now();
  #timer: Timer;

  constructor(
    private readonly transport: Duplex,
    private readonly idleTimeoutMs: number,
  ) {
    this.closed = new Promise((resolve) => transport.once("close", () => resolve()));
    this.over = new Promise((resolve) => {
      this.#markOver = resolve;
    });
    this.#timer = setTimeout(() => this.#checkIdle(), idleTimeoutMs);
    transport.on("error", (error) =>
      log().debug({ error: error.message }, "WebSocket: connection lost"),
    );
    transport.once("close", () => this.#gone());
  }

  /** @param head What has come with the request that was upgraded. */
  start(head: Buffer, handler: WebSocketHandler): void {
    const parser = new FrameParser({
      message: (piece) => {
        if (!this.#ending) handler.message(piece);
      },
      ping: (payload) => this.#ping(payload),
      close: (code) => this.#peerClosed(code, handler),
    });
    let failed = false;
    const receive = (chunk: Buffer) => {
      if (failed) return;
      if (!this.#ending) this.#activeMs = performance.now();
      try {
        parser.push(chunk);
      } catch (error) {
        failed = true;
        const code = error instanceof WebSocketError ? error.code : CloseCode.internalError;
        log().info({ error: messageOf(error), code }, "WebSocket: connection closed");
        this.close(code, messageOf(error));
        this.linger();
      }
    };
    this.transport.on("drain", () => this.#drained());
    this.transport.on("end", () => this.#peerEnded());
    if (head.length > 0) receive(head);
    this.transport.on("data", receive);
  }

  /**
   * Sends a message whose payload is `prefix` and `bytes`; calls back when there is room for more. After
   * the connection's end it is dropped.
   */
  send(opcode: OpcodeName, prefix: Buffer, bytes: Buffer, callback: () => void = () => {}): void {
    if (this.#ending) callback();
    else this.#transmit(opcode, prefix, bytes, callback);
  }

  /** Lets the client wait, or go on: TCP tells it. */
  pause(paused: boolean): void {
    const pause = paused && !this.#ending;
    if (pause === this.#paused) return;
    this.#paused = pause;
    this.#heartbeat.run(pause);
    if (pause) this.transport.pause();
    else this.transport.resume();
  }

  /**
   * Says farewell behind all that has been sent, and ends the connection when the client has ended it too
   * or takes too long. Any code but 1000 is a failure to clients.
   */
  close(code: number, reason = ""): void {
    if (this.#ending) return;
    const farewell = () => this.transport.end(closeFrame(code, reason), () => this.linger());
    if (this.#blocked) this.#waiting.push(farewell);
    else farewell();
    this.#ending = true;
    // Bytes that nobody reads would make the kernel reset the connection, and the client lose its end.
    this.pause(false);
  }

  /** The client has some time to close its side, and to fetch what it still has to. */
  linger(): void {
    if (this.transport.readableEnded && this.transport.writableFinished) this.transport.destroy();
    if (this.transport.destroyed) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.transport.destroy(), LINGER_MS);
  }

  #transmit(opcode: OpcodeName, prefix: Buffer, bytes: Buffer, callback: () => void): void {
    if (this.#blocked) {
      this.#waiting.push(() => this.#transmit(opcode, prefix, bytes, callback));
      return;
    }
    const header = [frameHeader(opcode, prefix.length + bytes.length), prefix];
    if (bytes.length <= JOIN_BYTES) this.#write(Buffer.concat([...header, bytes]));
    else {
      this.#write(Buffer.concat(header));
      this.#write(bytes);
    }
    if (this.#blocked) this.#waiting.push(callback);
    else callback();
  }

  #write(bytes: Buffer): void {
    if (this.transport.destroyed) return;
    // What has been taken at once is on its way, however much it was.
    if (this.transport.write(bytes) || this.transport.writableLength === 0) {
      this.#activeMs = performance.now();
      return;
    }
    this.#blocked = true;
    this.onBlocked(true);
  }

  #drained(): void {
    this.#activeMs = performance.now();
    this.#blocked = false;
    if (this.#unanswered !== undefined) this.#ping(this.#unanswered);
    while (!this.#blocked) {
      const next = this.#waiting.shift();
      if (next === undefined) break;
      next();
    }
    if (!this.#blocked) this.onBlocked(false);
  }

  #ping(payload: Buffer): void {
    this.#unanswered = this.#blocked ? Buffer.from(payload) : undefined;
    if (!this.#blocked && !this.#ending) this.#write(frame("pong", payload));
  }

  #peerClosed(code: number | undefined, handler: WebSocketHandler): void {
    if (!this.#ending) {
      handler.farewell();
      this.close(code ?? CloseCode.normal);
    }
    this.#markOver();
    // It may have stopped reading.
    this.linger();
  }

  /** Without a farewell, the client is gone; else it may still read. */
  #peerEnded(): void {
    if (!this.#ending || this.transport.writableFinished) this.transport.destroy();
  }

  #checkIdle(): void {
    const leftMs = this.#activeMs + this.idleTimeoutMs - performance.now();
    if (leftMs > 0) {
      this.#timer = setTimeout(() => this.#checkIdle(), leftMs);
      return;
    }
    log().info({ idleMs: this.idleTimeoutMs }, "WebSocket: idle connection closed");
    if (this.#blocked || this.#ending) this.transport.destroy();
    else {
      this.close(CloseCode.goingAway, "idle");
      this.linger();
    }
  }

  #gone(): void {
    this.#heartbeat.run(false);
    clearTimeout(this.#timer);
    this.#ending = true;
    this.#blocked = false;
    this.#markOver();
    // The connection drops all that they send.
    for (const next of this.#waiting.splice(0)) next();
  }
}
