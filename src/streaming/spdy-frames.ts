/**
 * SPDY/3.1 frames as bytes (https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/): a push
 * parser and encoders, no I/O. Header blocks stay compressed here; `spdy-headers.ts` reads them.
 */
import { CribError } from "../error.ts";

const HEADER_BYTES = 8;
const VERSION = 0x8003;
/** Kubernetes' header blocks have a hundred bytes. */
const MAX_CONTROL_BYTES = 64 * 1024;
/** A frame's length has 24 bits. */
export const MAX_DATA_BYTES = 0xffffff;

const Type = {
  synStream: 1,
  synReply: 2,
  rstStream: 3,
  settings: 4,
  ping: 6,
  goAway: 7,
  headers: 8,
  windowUpdate: 9,
} as const;

const FLAG_FIN = 1;

/** Why a stream was reset. */
export const ResetStatus = {
  refusedStream: 3,
  cancel: 5,
} as const;
export type ResetStatus = (typeof ResetStatus)[keyof typeof ResetStatus];

/** What a client may send beside data. SETTINGS and WINDOW_UPDATE are checked and dropped. */
export type ControlFrame =
  | { type: "synStream"; streamId: number; fin: boolean; block: Buffer }
  | { type: "headers"; streamId: number; fin: boolean; block: Buffer }
  | { type: "rstStream"; streamId: number }
  | { type: "ping"; id: number }
  | { type: "goAway" };

/** Whom the parser tells. Buffers are views of what was pushed. */
export interface FrameSink {
  control(frame: ControlFrame): void;
  /** A piece of a data frame, as it comes; `fin` with the last piece (maybe empty) of the last frame. */
  data(streamId: number, piece: Buffer, fin: boolean): void;
}

/** Cuts a connection's bytes into frames. Holds back no data and at most one control frame. */
export class FrameParser {
  readonly #header = Buffer.alloc(HEADER_BYTES);
  #headerFilled = 0;
  /** Of the data frame that is coming in. */
  #streamId = 0;
  #fin = false;
  #dataLeft = 0;
  /** The control frame that is coming in. */
  #control: Buffer | undefined;
  #controlFilled = 0;

  constructor(private readonly sink: FrameSink) {}

  /** @throws CribError InvalidArgument: not SPDY/3.1. Nothing can be made of what follows. */
  push(chunk: Buffer): void {
    let offset = 0;
    while (offset < chunk.length) {
      if (this.#dataLeft > 0) offset = this.#takeData(chunk, offset);
      else if (this.#control !== undefined)
        offset = this.#takeControl(this.#control, chunk, offset);
      else offset = this.#takeHeader(chunk, offset);
    }
  }

  #takeHeader(chunk: Buffer, start: number): number {
    const end = Math.min(chunk.length, start + HEADER_BYTES - this.#headerFilled);
    this.#headerFilled += chunk.copy(this.#header, this.#headerFilled, start, end);
    if (this.#headerFilled < HEADER_BYTES) return end;
    this.#headerFilled = 0;
    const first = this.#header.readUInt32BE(0);
    const length = this.#header.readUIntBE(5, 3);
    if (first < 0x80000000) this.#beginData(first, length);
    else this.#beginControl(first, length);
    return end;
  }

  #beginData(streamId: number, length: number): void {
    if (streamId === 0) throw malformed("data for stream 0");
    this.#streamId = streamId;
    this.#fin = this.#isFin();
    this.#dataLeft = length;
    if (length === 0) this.sink.data(streamId, EMPTY, this.#fin);
  }

  #beginControl(first: number, length: number): void {
    const version = first >>> 16;
    if (version !== VERSION) throw malformed(`version ${version & 0x7fff}, not 3`);
    if (length > MAX_CONTROL_BYTES) {
      throw malformed(`control frame of ${length} bytes (limit ${MAX_CONTROL_BYTES})`);
    }
    if (length === 0) this.#emitControl(EMPTY);
    else {
      this.#control = Buffer.alloc(length);
      this.#controlFilled = 0;
    }
  }

  #takeData(chunk: Buffer, start: number): number {
    const piece = chunk.subarray(start, start + this.#dataLeft);
    this.#dataLeft -= piece.length;
    this.sink.data(this.#streamId, piece, this.#fin && this.#dataLeft === 0);
    return start + piece.length;
  }

  #takeControl(payload: Buffer, chunk: Buffer, start: number): number {
    const taken = chunk.copy(payload, this.#controlFilled, start);
    this.#controlFilled += taken;
    if (this.#controlFilled === payload.length) {
      this.#control = undefined;
      this.#emitControl(payload);
    }
    return start + taken;
  }

  #emitControl(payload: Buffer): void {
    const frame = decodeControl(this.#header.readUInt16BE(2), this.#isFin(), payload);
    if (frame !== undefined) this.sink.control(frame);
  }

  #isFin(): boolean {
    return (this.#header.readUInt8(4) & FLAG_FIN) !== 0;
  }
}

const EMPTY = Buffer.alloc(0);

/** Frames that mean nothing here are undefined, as the protocol wants it for unknown types. */
function decodeControl(type: number, fin: boolean, payload: Buffer): ControlFrame | undefined {
  switch (type) {
    case Type.synStream:
      need(payload, 10, "SYN_STREAM");
      return { type: "synStream", streamId: streamIdOf(payload), fin, block: payload.subarray(10) };
    case Type.headers:
    case Type.synReply:
      // Servers open no streams here, but the block is part of the compression's history.
      need(payload, 4, "HEADERS");
      return { type: "headers", streamId: streamIdOf(payload), fin, block: payload.subarray(4) };
    case Type.rstStream:
      need(payload, 8, "RST_STREAM");
      return { type: "rstStream", streamId: streamIdOf(payload) };
    case Type.ping:
      need(payload, 4, "PING");
      return { type: "ping", id: payload.readUInt32BE(0) };
    case Type.goAway:
      need(payload, 8, "GOAWAY");
      return { type: "goAway" };
    case Type.settings:
      need(payload, 4, "SETTINGS");
      return undefined;
    case Type.windowUpdate:
      need(payload, 8, "WINDOW_UPDATE");
      return undefined;
    default:
      return undefined;
  }
}

function need(payload: Buffer, bytes: number, name: string): void {
  if (payload.length < bytes) throw malformed(`${name} of ${payload.length} bytes`);
}

function streamIdOf(payload: Buffer): number {
  const id = payload.readUInt32BE(0) & 0x7fffffff;
  if (id === 0) throw malformed("control frame for stream 0");
  return id;
}

/** The one error of SPDY's parsers. */
export function malformed(what: string): CribError {
  return new CribError("InvalidArgument", `SPDY: ${what}`);
}

/** The header of a data frame; the data follow. */
export function dataHeader(streamId: number, lengthBytes: number, fin: boolean): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES);
  bytes.writeUInt32BE(streamId, 0);
  bytes.writeUInt32BE(lengthBytes, 4);
  if (fin) bytes.writeUInt8(FLAG_FIN, 4);
  return bytes;
}

/** An empty header block: "no headers", then a sync marker, without which Go's client waits for ever. */
const EMPTY_BLOCK = Buffer.from("000400fbff00000000000000ffff", "hex");
/** Begins the zlib stream, naming the dictionary. */
const ZLIB_HEADER = Buffer.from("78f9e3c6a7c2", "hex");

/** A SYN_REPLY without headers. The connection's first begins its compression stream. */
export function synReply(streamId: number, first: boolean): Buffer {
  const block = first ? [ZLIB_HEADER, EMPTY_BLOCK] : [EMPTY_BLOCK];
  return control(Type.synReply, u32(streamId), ...block);
}

export function rstStream(streamId: number, status: ResetStatus): Buffer {
  return control(Type.rstStream, u32(streamId), u32(status));
}

export function ping(id: number): Buffer {
  return control(Type.ping, u32(id));
}

/** The connection's end; `failed`: for an error in the protocol. */
export function goAway(lastStreamId: number, failed: boolean): Buffer {
  return control(Type.goAway, u32(lastStreamId), u32(failed ? 1 : 0));
}

function control(type: number, ...payload: Buffer[]): Buffer {
  const body = Buffer.concat(payload);
  const header = Buffer.allocUnsafe(HEADER_BYTES);
  header.writeUInt16BE(VERSION, 0);
  header.writeUInt16BE(type, 2);
  header.writeUInt32BE(body.length, 4);
  return Buffer.concat([header, body]);
}

function u32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32BE(value, 0);
  return bytes;
}
