import { Backlog } from "./backlog.ts";
import { Base64Decoder } from "./base64-decoder.ts";
import { ClientStream, type StreamLink } from "./client-stream.ts";
import type { WebSocketConnection, WebSocketHandler } from "./websocket.ts";
import { CloseCode, type MessagePiece, WebSocketError } from "./websocket-frames.ts";

/** A subprotocol of Kubernetes' channels: what a message looks like. */
export interface ChannelEncoding {
  /** Text: the channel as a digit, then base64. Else binary: the channel as a byte, then the bytes. */
  base64: boolean;
  /** The client half-closes a channel by a message of 255 and the channel (version 5). */
  halfClose: boolean;
}

const CLOSE_SIGNAL = 255;
const DIGIT_ZERO = 0x30;

/** The largest channel that may be half-closed: that of terminal sizes. */
const LAST_CHANNEL = 4;
const EMPTY = Buffer.alloc(0);

/** The message that is coming in. */
interface Incoming {
  channel: number;
  decoder: Base64Decoder | undefined;
  /** What a half-close says. */
  signal: number | undefined;
}

/**
 * The channels of a WebSocket connection in Kubernetes' channel protocols: each message begins with the
 * channel's number. Messages for channels that nobody has opened are dropped, as Kubernetes' own servers
 * do: clients of newer versions count on it. Whether a message is text or binary makes no difference;
 * some clients mix them.
 */
export class WebSocketChannels implements WebSocketHandler, StreamLink {
  readonly #streams = new Map<number, ClientStream>();
  readonly #backlog: Backlog;
  #incoming: Incoming | undefined;

  constructor(
    private readonly connection: WebSocketConnection,
    private readonly encoding: ChannelEncoding,
  ) {
    this.#backlog = new Backlog(() => connection.pause(this.#backlog.full));
    void connection.closed.then(() => {
      for (const stream of [...this.#streams.values()]) stream.vanish();
    });
  }

  /** A channel in both directions. */
  open(channel: number): ClientStream {
    const stream = new ClientStream(this, channel);
    this.#streams.set(channel, stream);
    return stream;
  }

  /** Sends one message, also an empty one. */
  say(channel: number, bytes: Buffer, callback?: () => void): void {
    const { base64 } = this.encoding;
    const prefix = Buffer.from([base64 ? DIGIT_ZERO + channel : channel]);
    const payload = base64 ? Buffer.from(bytes.toString("base64")) : bytes;
    this.connection.send(base64 ? "text" : "binary", prefix, payload, callback);
  }

  message({ bytes, first, last }: MessagePiece): void {
    if (first) this.#incoming = undefined;
    let rest = bytes;
    if (this.#incoming === undefined) {
      const [byte] = bytes;
      // A message without a channel says nothing.
      if (byte === undefined) return;
      this.#incoming = this.#begin(byte);
      rest = bytes.subarray(1);
    }
    if (this.encoding.halfClose && this.#incoming.channel === CLOSE_SIGNAL) {
      this.#halfClose(this.#incoming, rest, last);
    } else {
      this.#deliver(this.#incoming, rest, last);
    }
  }

  farewell(): void {
    for (const stream of this.#streams.values()) stream.receive(EMPTY, true);
  }

  send(stream: ClientStream, chunk: Buffer, callback: () => void): void {
    this.say(stream.id, chunk, callback);
  }

  /** A server has no way to say this of one channel. */
  sendFin(): void {}

  ended(stream: ClientStream): void {
    this.#streams.delete(stream.id);
  }

  queued(stream: ClientStream, changeBytes: number): void {
    this.#backlog.queued(stream, changeBytes);
  }

  #begin(byte: number): Incoming {
    const { base64 } = this.encoding;
    return {
      channel: base64 ? byte - DIGIT_ZERO : byte,
      decoder: base64 ? new Base64Decoder() : undefined,
      signal: undefined,
    };
  }

  #deliver({ channel, decoder }: Incoming, bytes: Buffer, last: boolean): void {
    const stream = this.#streams.get(channel);
    if (stream === undefined) return;
    const decoded = decoder === undefined ? bytes : decoder.decode(bytes, last);
    if (decoded === undefined) {
      const what = `a message on channel ${channel} that is not base64`;
      throw new WebSocketError(CloseCode.invalidPayload, what);
    }
    stream.receive(decoded, false);
  }

  #halfClose(incoming: Incoming, bytes: Buffer, last: boolean): void {
    const [signal = incoming.signal] = bytes;
    const count = bytes.length + (incoming.signal === undefined ? 0 : 1);
    if (count > 1) throw badHalfClose("more than one channel");
    incoming.signal = signal;
    if (!last) return;
    if (signal === undefined) throw badHalfClose("no channel");
    if (signal > LAST_CHANNEL) throw badHalfClose(`channel ${signal}`);
    this.#streams.get(signal)?.receive(EMPTY, true);
  }
}

function badHalfClose(what: string): WebSocketError {
  return new WebSocketError(CloseCode.protocolError, `a half-close of ${what}`);
}
