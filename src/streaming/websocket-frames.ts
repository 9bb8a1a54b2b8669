/**
 * WebSocket frames (RFC 6455), the server's side: bytes in, bytes out, no I/O. No extensions.
 * Messages are handed on piece by piece as they arrive, so that their size costs no memory.
 */

export const Opcode = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;
export type OpcodeName = keyof typeof Opcode;

const OPCODES = new Set<number>(Object.values(Opcode));

/** Reasons for a connection's end (RFC 6455 section 7.4.1). */
export const CloseCode = {
  normal: 1000,
  goingAway: 1001,
  protocolError: 1002,
  unsupportedData: 1003,
  invalidPayload: 1007,
  policyViolation: 1008,
  messageTooBig: 1009,
  internalError: 1011,
} as const;
export type CloseCode = (typeof CloseCode)[keyof typeof CloseCode];

/** What the peer did wrong, and the code with which the connection has to be closed. */
export class WebSocketError extends Error {
  override readonly name = "WebSocketError";

  constructor(
    readonly code: CloseCode,
    message: string,
  ) {
    super(message);
  }
}

/** The largest frame: what CRI-O's and containerd's servers take. A message may have any number. */
export const FRAME_LIMIT_BYTES = 32 << 20;
const CONTROL_LIMIT_BYTES = 125;
const FIN = 0x80;
const RESERVED = 0x70;
const MASKED = 0x80;
const MAX_HEADER_BYTES = 14;

/** A piece of a message's payload. An empty message is one empty piece. */
export interface MessagePiece {
  bytes: Buffer;
  text: boolean;
  /** Whether the message begins or ends with this piece. */
  first: boolean;
  last: boolean;
}

export interface FrameHandler {
  message(piece: MessagePiece): void;
  ping(payload: Buffer): void;
  /** Nothing is read after it. `code` is absent when the peer gave none. */
  close(code: number | undefined): void;
}

interface FrameHead {
  opcode: number;
  fin: boolean;
  lengthBytes: number;
  mask: Buffer;
}

/**
 * A push parser: give it what arrived, it calls back for each piece of a message and each control
 * frame, in order. Payloads are views into what was given, which it unmasks in place.
 */
export class FrameParser {
  readonly #handler: FrameHandler;
  readonly #header = Buffer.alloc(MAX_HEADER_BYTES);
  #headerBytes = 0;
  #frame: FrameHead | undefined;
  /** Payload bytes of the frame that have been read. */
  #read = 0;
  #control = Buffer.alloc(0);
  /** The message that has begun and not ended. */
  #message: { text: boolean; first: boolean; utf8: TextDecoder | undefined } | undefined;
  #closed = false;

  constructor(handler: FrameHandler) {
    this.#handler = handler;
  }

  /** Throws a WebSocketError on what is no frame; the parser is then of no use any more. */
  push(chunk: Buffer): void {
    let at = 0;
    while (!this.#closed && (at < chunk.length || this.#isWhole())) {
      if (this.#frame === undefined) at += this.#readHeader(chunk.subarray(at));
      else at += this.#readPayload(this.#frame, chunk.subarray(at));
    }
  }

  /** A frame whose payload is there, or that has none. */
  #isWhole(): boolean {
    return this.#frame !== undefined && this.#frame.lengthBytes === this.#read;
  }

  #readHeader(bytes: Buffer): number {
    let taken = 0;
    while (taken < bytes.length && this.#frame === undefined) {
      this.#header[this.#headerBytes] = bytes[taken] ?? 0;
      this.#headerBytes += 1;
      taken += 1;
      this.#frame = readHead(this.#header.subarray(0, this.#headerBytes));
    }
    if (this.#frame !== undefined) {
      this.#headerBytes = 0;
      this.#read = 0;
      this.#begin(this.#frame);
    }
    return taken;
  }

  #begin({ opcode }: FrameHead): void {
    if (isControl(opcode)) {
      this.#control = Buffer.alloc(0);
      return;
    }
    if (opcode === Opcode.continuation) {
      if (this.#message === undefined) {
        throw protocolError("a continuation without a message");
      }
      return;
    }
    if (this.#message !== undefined) throw protocolError("a message within a message");
    const text = opcode === Opcode.text;
    const utf8 = text ? new TextDecoder("utf-8", { fatal: true }) : undefined;
    this.#message = { text, first: true, utf8 };
  }

  #readPayload(frame: FrameHead, bytes: Buffer): number {
    const taken = Math.min(bytes.length, frame.lengthBytes - this.#read);
    const payload = bytes.subarray(0, taken);
    unmask(payload, frame.mask, this.#read);
    this.#read += taken;
    const whole = this.#isWhole();
    if (whole) this.#frame = undefined;
    if (!isControl(frame.opcode)) this.#deliver(payload, whole && frame.fin);
    else if (whole) this.#deliverControl(frame.opcode, Buffer.concat([this.#control, payload]));
    else this.#control = Buffer.concat([this.#control, payload]);
    return taken;
  }

  #deliver(bytes: Buffer, last: boolean): void {
    const message = this.#message;
    if (message === undefined) return;
    const { text, first, utf8 } = message;
    try {
      utf8?.decode(bytes, { stream: !last });
    } catch {
      throw new WebSocketError(CloseCode.invalidPayload, "a text message that is not UTF-8");
    }
    message.first = false;
    if (last) this.#message = undefined;
    // A frame without payload tells nothing, unless it begins or ends a message.
    if (bytes.length > 0 || first || last) this.#handler.message({ bytes, text, first, last });
  }

  #deliverControl(opcode: number, payload: Buffer): void {
    if (opcode === Opcode.ping) this.#handler.ping(payload);
    if (opcode !== Opcode.close) return;
    const code = readClose(payload);
    this.#closed = true;
    this.#handler.close(code);
  }
}

const protocolError = (what: string) => new WebSocketError(CloseCode.protocolError, what);
const isControl = (opcode: number) => opcode >= Opcode.close;

/** The frame's head when `bytes` is all of it, undefined when more is needed. */
function readHead(bytes: Buffer): FrameHead | undefined {
  const [first = 0, second] = bytes;
  const opcode = first & 0x0f;
  const fin = (first & FIN) !== 0;
  if ((first & RESERVED) !== 0) throw protocolError("a frame with reserved bits");
  if (!OPCODES.has(opcode)) {
    throw protocolError(`a frame of unknown type ${opcode}`);
  }
  if (isControl(opcode) && !fin) throw protocolError("a control frame in fragments");
  if (second === undefined) return undefined;
  if ((second & MASKED) === 0) throw protocolError("a frame without a mask");
  const short = second & 0x7f;
  if (isControl(opcode) && short > CONTROL_LIMIT_BYTES) {
    throw protocolError(`a control frame of more than ${CONTROL_LIMIT_BYTES} bytes`);
  }
  const extended = short === 126 ? 2 : short === 127 ? 8 : 0;
  if (bytes.length < 2 + extended) return undefined;
  const lengthBytes = extended === 0 ? short : readLength(bytes.subarray(2, 2 + extended));
  if (bytes.length < 2 + extended + 4) return undefined;
  return { opcode, fin, lengthBytes, mask: Buffer.from(bytes.subarray(2 + extended)) };
}

/** The length in 2 or 8 bytes, which must be needed. */
function readLength(bytes: Buffer): number {
  const length = bytes.length === 2 ? BigInt(bytes.readUInt16BE()) : bytes.readBigUInt64BE();
  if (length < (bytes.length === 2 ? 126n : 65_536n)) {
    throw protocolError(`a length of ${length} in ${bytes.length} bytes`);
  }
  if (length >= 1n << 63n) throw protocolError("a length with its highest bit set");
  if (length > FRAME_LIMIT_BYTES) {
    const limit = `at most ${FRAME_LIMIT_BYTES} are possible`;
    throw new WebSocketError(CloseCode.messageTooBig, `a frame of ${length} bytes, ${limit}`);
  }
  return Number(length);
}

/** The code in a close frame. */
function readClose(payload: Buffer): number | undefined {
  if (payload.length === 0) return undefined;
  if (payload.length === 1) throw protocolError("a close frame of one byte");
  const code = payload.readUInt16BE();
  if (!isCloseCode(code)) throw protocolError(`the close code ${code}`);
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(payload.subarray(2));
  } catch {
    throw new WebSocketError(CloseCode.invalidPayload, "a close reason that is not UTF-8");
  }
  return code;
}

/** Whether `code` may be in a close frame (RFC 6455 section 7.4, and the IANA registry). */
function isCloseCode(code: number): boolean {
  const reserved = [1004, 1005, 1006];
  return (
    (code >= 1000 && code <= 1014 && !reserved.includes(code)) || (code >= 3000 && code < 5000)
  );
}

/** Takes the mask off, in place; `phase` payload bytes came before. */
function unmask(bytes: Buffer, mask: Buffer, phase: number): void {
  const flip = (from: number, to: number) => {
    for (let at = from; at < to; at += 1) {
      bytes[at] = (bytes[at] ?? 0) ^ (mask[(phase + at) & 3] ?? 0);
    }
  };
  // Four bytes at a time where memory is aligned: several times as fast.
  const start = Math.min(bytes.length, -bytes.byteOffset & 3);
  const count = (bytes.length - start) >>> 2;
  flip(0, start);
  if (count > 0) {
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset + start, count);
    const rotated = Buffer.from([0, 1, 2, 3].map((at) => mask[(phase + start + at) & 3] ?? 0));
    const key = rotated.readUInt32LE();
    for (let at = 0; at < count; at += 1) words[at] = (words[at] ?? 0) ^ key;
  }
  flip(start + count * 4, bytes.length);
}

/**
 * The bytes before the payload of a server's frame, which is whole and not masked.
 * A control frame has at most 125 bytes of payload.
 */
export function frameHeader(opcode: OpcodeName, lengthBytes: number): Buffer {
  const first = FIN | Opcode[opcode];
  if (lengthBytes < 126) return Buffer.from([first, lengthBytes]);
  if (lengthBytes < 65_536) {
    return Buffer.from([first, 126, lengthBytes >>> 8, lengthBytes & 255]);
  }
  const header = Buffer.alloc(10);
  header[0] = first;
  header[1] = 127;
  header.writeBigUInt64BE(BigInt(lengthBytes), 2);
  return header;
}

/** A whole frame. */
export function frame(opcode: OpcodeName, payload: Buffer): Buffer {
  return Buffer.concat([frameHeader(opcode, payload.length), payload]);
}

/** A close frame; a reason that does not fit is cut at a character. */
export function closeFrame(code: number, reason = ""): Buffer {
  const payload = Buffer.alloc(CONTROL_LIMIT_BYTES);
  payload.writeUInt16BE(code);
  const { written } = new TextEncoder().encodeInto(reason, payload.subarray(2));
  return frame("close", payload.subarray(0, 2 + written));
}
