/**
 * The monitor's control protocol: bytes in, bytes out, no I/O. The mirror of
 * `src/native/protocol.h`, which documents the frames and their fields; change both together.
 */
import { CribError, type ErrorCode } from "../error.ts";
import type {
  ContainerExit,
  ContainerRecord,
  CreateRequest,
  CreateResult,
  ExecRequest,
  ExecResult,
} from "./types.ts";

export type {
  ContainerExit,
  ContainerRecord,
  CreateRequest,
  CreateResult,
  ExecRequest,
  ExecResult,
};

export const PROTOCOL_VERSION = 1;
const MAGIC = 0x42495243;
const HEADER_BYTES = 12;
/** The largest payload of a frame. */
export const FRAME_LIMIT_BYTES = 1 << 20;

/** Types of requests; the monitor's answer has `REPLY` added. */
export const Request = {
  hello: 1,
  create: 2,
  exec: 3,
  kill: 4,
  reopenLog: 5,
  list: 6,
  forget: 7,
  shutdown: 8,
} as const;
export type RequestType = (typeof Request)[keyof typeof Request];

/** Types of what the monitor sends. */
export const Answer = {
  reply: 0x8000,
  error: 0xc000,
  exit: 0xc001,
  execOutput: 0xc002,
  listEntry: 0xc003,
} as const;

const CREATE_STDIN = 1;
const CREATE_STDIN_ONCE = 2;
const EXEC_TIMED_OUT = 1;
const EXEC_RUNTIME_FAILED = 2;
const STATE_EXITED = 3;

const ERROR_CODES: Record<number, ErrorCode> = {
  1: "InvalidArgument",
  2: "NotFound",
  3: "AlreadyExists",
  4: "FailedPrecondition",
  5: "ResourceExhausted",
  6: "Internal",
  7: "Unimplemented",
};

export interface Frame {
  type: number;
  /** The number of the request that this answers; 0 for events. */
  request: number;
  payload: Uint8Array;
}

export interface Hello {
  version: number;
  pid: number;
  pausePid: number | undefined;
  podId: string;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });
/** For messages: the monitor cuts long ones, maybe inside a character. */
const lenientDecoder = new TextDecoder("utf-8");

/** Collects fields and makes one frame of them. */
class FrameWriter {
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

export function encodeHello(request: number): Uint8Array {
  return new FrameWriter().u32("magic", MAGIC).u16(PROTOCOL_VERSION).frame(Request.hello, request);
}

/** `drainMs`: how long the exit waits for the log's end when a descendant holds it open. */
export function encodeCreate(request: number, r: CreateRequest, drainMs: number): Uint8Array {
  const flags = (r.stdin ? CREATE_STDIN : 0) | (r.stdinOnce ? CREATE_STDIN_ONCE : 0);
  return new FrameWriter()
    .string("id", r.id)
    .string("cwd", r.cwd)
    .string("logPath", r.logPath)
    .string("pidFile", r.pidFile)
    .string("oomFile", r.oomFile)
    .u32("flags", flags)
    .u32("deadlineMs", r.deadlineMs)
    .u32("drainMs", drainMs)
    .list("argv", r.argv)
    .list("env", r.env)
    .u32("logBytesPerSecond", r.logBytesPerSecond)
    .frame(Request.create, request);
}

export function encodeExec(request: number, r: ExecRequest): Uint8Array {
  return new FrameWriter()
    .string("id", r.id)
    .string("cwd", r.cwd)
    .string("pidFile", r.pidFile)
    .u32("flags", 0)
    .u32("timeoutMs", r.timeoutMs)
    .u32("drainMs", r.drainMs)
    .list("argv", r.argv)
    .list("env", r.env)
    .frame(Request.exec, request);
}

export function encodeKill(request: number, id: string, signal: number): Uint8Array {
  return new FrameWriter().string("id", id).u32("signal", signal).frame(Request.kill, request);
}

/** Requests that carry one container id. */
export function encodeForId(
  request: number,
  type: typeof Request.reopenLog | typeof Request.forget,
  id: string,
): Uint8Array {
  return new FrameWriter().string("id", id).frame(type, request);
}

/** Requests without fields. */
export function encodeEmpty(
  request: number,
  type: typeof Request.list | typeof Request.shutdown,
): Uint8Array {
  return new FrameWriter().frame(type, request);
}

/** Reads a payload's fields one after the other; what is missing or malformed throws DataLoss. */
class FieldReader {
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

export function decodeHello(payload: Uint8Array): Hello {
  const reader = new FieldReader(payload);
  const version = reader.u16();
  reader.u16();
  const pid = reader.u32();
  const pausePid = reader.u32();
  return { version, pid, pausePid: pausePid === 0 ? undefined : pausePid, podId: reader.string() };
}

export function decodeCreate(payload: Uint8Array): CreateResult {
  const reader = new FieldReader(payload);
  const result = { exitStatus: reader.u32(), pid: reader.u32() };
  const startError = reader.message();
  return startError === "" ? result : { ...result, startError };
}

export function decodeExec(payload: Uint8Array): ExecResult {
  const reader = new FieldReader(payload);
  const exitCode = reader.u32();
  const signal = reader.u32();
  const flags = reader.u32();
  return {
    exitCode,
    signal,
    timedOut: (flags & EXEC_TIMED_OUT) !== 0,
    runtimeFailed: (flags & EXEC_RUNTIME_FAILED) !== 0,
  };
}

/** Of an EXIT event or a list entry. */
export function decodeRecord(payload: Uint8Array): ContainerRecord {
  const reader = new FieldReader(payload);
  const record = { id: reader.string(), pid: reader.u32() };
  const state = reader.u32();
  const exit: ContainerExit = {
    id: record.id,
    exitCode: reader.u32(),
    signal: reader.u32(),
    oomKilled: reader.u32() !== 0,
    finishedAtNs: reader.u64(),
    droppedLogBytes: reader.u64(),
  };
  const { droppedLogBytes } = exit;
  return state === STATE_EXITED
    ? { ...record, droppedLogBytes, exit }
    : { ...record, droppedLogBytes };
}

/** The error that the monitor answered with. */
export function decodeError(payload: Uint8Array): CribError {
  const reader = new FieldReader(payload);
  const code = ERROR_CODES[reader.u32()] ?? "Internal";
  return new CribError(code, `pod monitor: ${reader.message()}`);
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
