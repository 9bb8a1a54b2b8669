/** Frames and fields of the monitor's control protocol: bytes in, bytes out. See `src/native/protocol.h`. */
import { CribError } from "../error.ts";

const HEADER_BYTES = 12;
/** The largest payload of a frame. */
export const FRAME_LIMIT_BYTES = 1 << 20;

export interface Frame {
  type: number;
  /** The number of the request that this answers; 0 for events. */
  request: number;
  payload: Uint8Array;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });
/** For messages: the monitor cuts long ones, maybe inside a character. */
const lenientDecoder = new TextDecoder("utf-8");

/** Collects fields and makes one frame of them. */
export class FrameWriter {
  private readonly parts: Uint8Array[] = [];
  private length = 0;

  private push(bytes: Uint8Array): this {
    this.parts.push(bytes);
    this.length += bytes.length;
    return this;
  }

  u16(value: number): this {
    return this.push(new Uint8Array([value & 255, (value >> 8) & 255]));
  }

  u32(field: string, value: number): this {
    if (!Number.isInteger(value) || value < 0 || value > 0xffffffff) {
      throw new CribError("InvalidArgument", `monitor request: ${field} ${value} is no u32`);
    }
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value, true);
    return this.push(bytes);
  }

  string(field: string, value: string): this {
    if (value.includes("\0")) {
      throw new CribError("InvalidArgument", `monitor request: ${field} holds a NUL byte`);
    }
    const bytes = encoder.encode(value);
    return this.u32(field, bytes.length).push(bytes).push(new Uint8Array(1));
  }

  list(field: string, values: readonly string[]): this {
    this.u32(field, values.length);
    for (const value of values) this.string(field, value);
    return this;
  }

  frame(type: number, request: number): Uint8Array {
    if (this.length > FRAME_LIMIT_BYTES) {
      const size = `${this.length} bytes, at most ${FRAME_LIMIT_BYTES} are possible`;
      throw new CribError("InvalidArgument", `monitor request: command and environment: ${size}`);
    }
    const bytes = new Uint8Array(HEADER_BYTES + this.length);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, this.length, true);
    view.setUint16(4, type, true);
    view.setUint32(8, request, true);
    let at = HEADER_BYTES;
    for (const part of this.parts) {
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }
}

/** Reads a payload's fields one after the other; what is missing or malformed throws DataLoss. */
export class FieldReader {
  private at = 0;
  private readonly view: DataView;

  constructor(private readonly bytes: Uint8Array) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  private take(count: number): number {
    const at = this.at;
    if (this.bytes.length - at < count) throw malformed("a frame is too short");
    this.at += count;
    return at;
  }

  u16 = (): number => this.view.getUint16(this.take(2), true);
  u32 = (): number => this.view.getUint32(this.take(4), true);
  u64 = (): bigint => this.view.getBigUint64(this.take(8), true);

  string(): string {
    const bytes = this.stringBytes();
    try {
      return decoder.decode(bytes);
    } catch {
      throw malformed("a string that is not UTF-8");
    }
  }

  /** A string for people. */
  message = (): string => lenientDecoder.decode(this.stringBytes());

  private stringBytes(): Uint8Array {
    const length = this.u32();
    const at = this.take(length + 1);
    if (this.bytes[at + length] !== 0) throw malformed("a string without its NUL");
    return this.bytes.subarray(at, at + length);
  }
}

function malformed(what: string): CribError {
  return new CribError("DataLoss", `monitor protocol: ${what}`);
}

/** A push parser: give it what arrived, it calls back for each whole frame, in order. */
export class FrameParser {
  private kept: Uint8Array = new Uint8Array(0);

  constructor(private readonly onFrame: (frame: Frame) => void) {}

  /**
   * Frames' payloads are views into `chunk` where they can be: copy what outlives the call.
   * Throws DataLoss on a frame that is none; the connection is then of no use any more.
   */
  push(chunk: Uint8Array): void {
    const bytes = this.kept.length === 0 ? chunk : concatenate(this.kept, chunk);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let at = 0;
    while (bytes.length - at >= HEADER_BYTES) {
      const length = view.getUint32(at, true);
      if (length > FRAME_LIMIT_BYTES) throw malformed(`a frame of ${length} bytes`);
      if (view.getUint16(at + 6, true) !== 0) throw malformed("a frame with unknown header bits");
      const end = at + HEADER_BYTES + length;
      if (end > bytes.length) break;
      this.onFrame({
        type: view.getUint16(at + 4, true),
        request: view.getUint32(at + 8, true),
        payload: bytes.subarray(at + HEADER_BYTES, end),
      });
      at = end;
    }
    this.kept = at === bytes.length ? new Uint8Array(0) : bytes.slice(at);
  }
}

function concatenate(a: Uint8Array, b: Uint8Array): Uint8Array {
  const joined = new Uint8Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}
