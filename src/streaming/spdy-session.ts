import type { Duplex } from "node:stream";
import { messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { Backlog } from "./backlog.ts";
import type { StreamLink } from "./client-stream.ts";
import { Heartbeat } from "./heartbeat.ts";
import {
  type ControlFrame,
  dataHeader,
  FrameParser,
  goAway,
  MAX_DATA_BYTES,
  malformed,
  ping,
  ResetStatus,
  rstStream,
  synReply,
} from "./spdy-frames.ts";
import { HeaderReader } from "./spdy-headers.ts";
import { SpdyStream, type StreamHeaders, streamHeaders } from "./spdy-stream.ts";

export interface SpdyOptions {
  /** A connection with neither frames nor progress for this long is closed. */
  idleTimeoutMs: number;
  /** Streams that may be open at once; more are refused. */
  maxStreams: number;
  /** Why a stream with these headers is refused; undefined takes it. */
  refuse(headers: StreamHeaders): string | undefined;
  /** A stream has been taken, the client knows. */
  opened(stream: SpdyStream): void;
  /** The client takes nothing for now, or does again. */
  blocked?(blocked: boolean): void;
}

/** Answers (to PING and the like) that a client does not fetch before it is no longer read. */
const ANSWERS_LIMIT_BYTES = 64 * 1024;
/** Below this, header and data go out as one piece: it costs less than a second system call. */
const JOIN_BYTES = 8 * 1024;
/**
 * How long the client may take to close its side after everything has been sent; or to fetch that, when
 * it has failed, left or was idle.
 */
const LINGER_MS = 30_000;

/**
 * The server's side of a SPDY/3.1 connection as Kubernetes' clients speak it. They have no flow control
 * of their own: a slow side is felt through TCP alone, so what nobody reads stalls the whole connection.
 */
export class SpdySession implements StreamLink {
  /** Resolves when the connection is gone. */
  readonly closed: Promise<void>;
  /** Resolves when nothing more can be exchanged, whoever ended it; the connection may close later. */
  readonly over: Promise<void>;
  #markOver: () => void = () => {};
  readonly #streams = new Map<number, SpdyStream>();
  readonly #headers = new HeaderReader();
  readonly #parser = new FrameParser({
    control: (frame) => this.#control(frame),
    data: (id, piece, fin) => this.#data(id, piece, fin),
  });
  #lastStreamId = 0;
  #replied = false;
  /** What comes in does not count any more. */
  #ending = false;
  /** The transport is full until it has drained; these wait for that. */
  readonly #waiting: Array<() => void> = [];
  #blocked = false;
  #answersBytes = 0;
  #paused = false;
  /** The answer to a PING that was never asked: clients have to ignore it. */
  readonly #heartbeat = new Heartbeat(() => {
    if (!this.#blocked) this.transport.write(ping(NO_PING));
  });
  readonly #backlog = new Backlog(() => this.#updateFlow());
  #activeMs = performance.now();
  #timer: Timer;

  /** @param transport The connection's bytes, from `start` on; need not be a socket. */
  constructor(
    private readonly transport: Duplex,
    private readonly options: SpdyOptions,
  ) {
    this.closed = new Promise((resolve) => transport.once("close", () => resolve()));
    this.over = new Promise((resolve) => {
      this.#markOver = resolve;
    });
    this.#timer = setTimeout(() => this.#checkIdle(), options.idleTimeoutMs);
    transport.on("error", (error) =>
      log().debug({ error: error.message }, "SPDY: connection lost"),
    );
    transport.once("close", () => this.#gone());
  }

  /** @param head What has come with the request that was upgraded. */
  start(head: Buffer): void {
    this.transport.on("drain", () => this.#drained());
    this.transport.on("end", () => this.#peerEnded());
    if (head.length > 0) this.#receive(head);
    this.transport.on("data", (chunk: Buffer) => this.#receive(chunk));
  }

  /** Resets what is still open and closes the connection once everything has been sent. */
  finish(failed = false): void {
    if (this.#ending) return;
    this.#end();
    for (const stream of [...this.#streams.values()]) stream.destroy();
    this.#answer(goAway(this.#lastStreamId, failed));
    this.transport.end(() => this.#linger());
    if (failed) this.#linger();
    // Bytes that nobody reads would make the kernel reset the connection, and the client lose its end.
    this.#updateFlow();
  }

  send(stream: SpdyStream, chunk: Buffer, callback: () => void): void {
    if (stream.destroyed) callback();
    else if (this.#blocked) this.#waiting.push(() => this.send(stream, chunk, callback));
    else {
      this.#writeData(stream.id, chunk);
      if (this.#blocked) this.#waiting.push(callback);
      else callback();
    }
  }

  sendFin(stream: SpdyStream): void {
    this.#write(dataHeader(stream.id, 0, true));
  }

  ended(stream: SpdyStream, reset: boolean): void {
    if (!this.#streams.delete(stream.id)) return;
    if (reset) this.#answer(rstStream(stream.id, ResetStatus.cancel));
  }

  queued(stream: SpdyStream, changeBytes: number): void {
    this.#backlog.queued(stream, changeBytes);
  }

  #receive(chunk: Buffer): void {
    if (this.#ending) return;
    this.#activeMs = performance.now();
    try {
      this.#parser.push(chunk);
    } catch (error) {
      log().info({ error: messageOf(error) }, "SPDY: connection closed");
      this.finish(true);
    }
  }

  /** Data for a stream that is gone may have been on the way when it went. */
  #data(id: number, piece: Buffer, fin: boolean): void {
    if (id % 2 === 0 || id > this.#lastStreamId) throw malformed(`data for stream ${id}: not open`);
    if (!this.#ending) this.#streams.get(id)?.receive(piece, fin);
  }

  #control(frame: ControlFrame): void {
    if (this.#ending) return;
    switch (frame.type) {
      case "synStream":
        this.#open(frame.streamId, frame.fin, this.#headers.read(frame.block));
        return;
      case "headers":
        this.#headers.read(frame.block);
        if (frame.fin) this.#streams.get(frame.streamId)?.receive(EMPTY, true);
        return;
      case "rstStream":
        this.#streams.get(frame.streamId)?.vanish();
        return;
      case "ping":
        // Even ids would be answers to ours; there are none.
        if (frame.id % 2 === 1) this.#answer(ping(frame.id));
        return;
      case "goAway":
        this.#abandon();
    }
  }

  #open(id: number, fin: boolean, all: ReadonlyMap<string, string>): void {
    if (id % 2 === 0 || id <= this.#lastStreamId) {
      throw malformed(`stream ${id} opened after stream ${this.#lastStreamId}`);
    }
    this.#lastStreamId = id;
    const headers = streamHeaders(all);
    const refusal = this.#refusal(headers);
    if (headers === undefined || refusal !== undefined) {
      log().debug({ stream: id, refusal }, "SPDY: stream refused");
      this.#answer(rstStream(id, ResetStatus.refusedStream));
      return;
    }
    const stream = new SpdyStream(this, id, headers);
    this.#streams.set(id, stream);
    // Before any data: the client drops what comes without it.
    this.#answer(synReply(id, !this.#replied));
    this.#replied = true;
    this.options.opened(stream);
    if (fin) stream.receive(EMPTY, true);
  }

  #refusal(headers: StreamHeaders | undefined): string | undefined {
    if (headers === undefined) return "a header that is too long";
    if (this.#streams.size < this.options.maxStreams) return this.options.refuse(headers);
    return `${this.options.maxStreams} streams are open`;
  }

  #writeData(id: number, chunk: Buffer): void {
    for (let start = 0; start < chunk.length; start += MAX_DATA_BYTES) {
      const piece = chunk.subarray(start, start + MAX_DATA_BYTES);
      const header = dataHeader(id, piece.length, false);
      if (piece.length <= JOIN_BYTES) this.#write(Buffer.concat([header, piece]));
      else {
        this.#write(header);
        this.#write(piece);
      }
    }
  }

  #answer(frame: Buffer): void {
    this.#write(frame);
    if (!this.#blocked) return;
    this.#answersBytes += frame.length;
    this.#updateFlow();
  }

  #write(bytes: Buffer): void {
    if (this.transport.destroyed || this.transport.writableEnded) return;
    // What has been taken at once is on its way, however much it was.
    if (this.transport.write(bytes) || this.transport.writableLength === 0) {
      this.#activeMs = performance.now();
      return;
    }
    this.#blocked = true;
    this.options.blocked?.(true);
  }

  #drained(): void {
    this.#activeMs = performance.now();
    this.#blocked = false;
    this.#answersBytes = 0;
    while (!this.#blocked) {
      const next = this.#waiting.shift();
      if (next === undefined) break;
      next();
    }
    if (!this.#blocked) this.options.blocked?.(false);
    this.#updateFlow();
  }

  /** Reads on, or lets the client wait: TCP tells it. */
  #updateFlow(): void {
    const pause = !this.#ending && (this.#backlog.full || this.#answersBytes > ANSWERS_LIMIT_BYTES);
    if (pause === this.#paused) return;
    this.#paused = pause;
    this.#heartbeat.run(pause);
    if (pause) this.transport.pause();
    else this.transport.resume();
  }

  #peerEnded(): void {
    if (!this.#ending) this.#abandon();
    else if (this.transport.writableFinished) this.transport.destroy();
  }

  #end(): void {
    this.#ending = true;
    this.#markOver();
  }

  /** The client wants no more of this. */
  #abandon(): void {
    this.#end();
    for (const stream of [...this.#streams.values()]) stream.vanish();
    this.transport.end(() => this.#linger());
    this.#linger();
    this.#updateFlow();
  }

  /** The client has some time to close its side. */
  #linger(): void {
    const { readableEnded, writableFinished } = this.transport;
    if (readableEnded && writableFinished) this.transport.destroy();
    if (this.transport.destroyed) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.transport.destroy(), LINGER_MS);
  }

  #checkIdle(): void {
    const leftMs = this.#activeMs + this.options.idleTimeoutMs - performance.now();
    if (leftMs > 0) {
      this.#timer = setTimeout(() => this.#checkIdle(), leftMs);
      return;
    }
    log().info({ idleMs: this.options.idleTimeoutMs }, "SPDY: idle connection closed");
    if (this.#blocked || this.#ending) this.transport.destroy();
    else {
      this.finish();
      this.#linger();
    }
  }

  #gone(): void {
    clearTimeout(this.#timer);
    this.#end();
    this.#heartbeat.run(false);
    for (const stream of [...this.#streams.values()]) stream.vanish();
    // Their streams are gone, so each only calls back.
    for (const next of this.#waiting.splice(0)) next();
  }
}

const EMPTY = Buffer.alloc(0);
/** Clients' PINGs have odd ids and count from 1. */
const NO_PING = 0x7fffffff;
