/**
 * The monitor's control protocol: bytes in, bytes out, no I/O. The mirror of
 * `src/native/protocol.h`, which documents the frames and their fields; change both together.
 */
import { CribError, type ErrorCode } from "../error.ts";
import { FieldReader, FrameWriter } from "./frame.ts";
import type {
  ContainerExit,
  ContainerRecord,
  CreateRequest,
  CreateResult,
  ExecRequest,
  ExecResult,
  Wants,
} from "./types.ts";

export const PROTOCOL_VERSION = 2;
/** The first version with streams: terminals, attach, dial. */
export const STREAMS_VERSION = 2;
const MAGIC = 0x42495243;

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
  stream: 16,
  attach: 17,
  resize: 18,
  cancel: 19,
  dial: 20,
  dialEnd: 21,
  hold: 22,
  drop: 23,
} as const;

/** Types of what the monitor sends. */
export const Answer = {
  reply: 0x8000,
  error: 0xc000,
  exit: 0xc001,
  execOutput: 0xc002,
  listEntry: 0xc003,
  pauseEnded: 0xc004,
} as const;

const CREATE_STDIN = 1;
const CREATE_STDIN_ONCE = 2;
const CREATE_TTY = 4;
const WANT_STDIN = 1;
const WANT_STDOUT = 2;
const WANT_STDERR = 4;
const WANT_TTY = 8;
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
  8: "DeadlineExceeded",
};

export interface Hello {
  version: number;
  pid: number;
  pausePid: number | undefined;
  podId: string;
}

export function encodeHello(request: number): Uint8Array {
  return new FrameWriter().u32("magic", MAGIC).u16(PROTOCOL_VERSION).frame(Request.hello, request);
}

/** `drainMs`: how long the exit waits for the log's end when a descendant holds it open. */
export function encodeCreate(request: number, r: CreateRequest, drainMs: number): Uint8Array {
  const flags =
    (r.stdin ? CREATE_STDIN : 0) |
    (r.stdinOnce ? CREATE_STDIN_ONCE : 0) |
    (r.consoleSocket === undefined ? 0 : CREATE_TTY);
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
    .string("consoleSocket", r.consoleSocket ?? "")
    .frame(Request.create, request);
}

function flagsOf(wants: Wants): number {
  return (
    (wants.stdin ? WANT_STDIN : 0) |
    (wants.stdout ? WANT_STDOUT : 0) |
    (wants.stderr ? WANT_STDERR : 0) |
    (wants.tty ? WANT_TTY : 0)
  );
}

/** The numbers of the streams that a request names: of stdin and stdout, and of stderr; 0 for none. */
export interface StreamNumbers {
  io: number;
  stderr: number;
}

/** Without `streams` the output comes in frames. */
export function encodeExec(
  request: number,
  r: ExecRequest,
  streams?: StreamNumbers & { wants: Wants; consoleSocket: string },
): Uint8Array {
  const writer = new FrameWriter()
    .string("id", r.id)
    .string("cwd", r.cwd)
    .string("pidFile", r.pidFile)
    .u32("wants", streams === undefined ? 0 : flagsOf(streams.wants))
    .u32("timeoutMs", r.timeoutMs)
    .u32("drainMs", r.drainMs)
    .list("argv", r.argv)
    .list("env", r.env);
  if (streams !== undefined) {
    writer
      .u32("stream", streams.io)
      .u32("stream of stderr", streams.stderr)
      .string("consoleSocket", streams.consoleSocket);
  }
  return writer.frame(Request.exec, request);
}

/** The first frame of a connection that is a stream. */
export function encodeStream(number: number): Uint8Array {
  return new FrameWriter().u32("number", number).frame(Request.stream, 0);
}

export function encodeAttach(
  request: number,
  id: string,
  wants: Wants,
  { io, stderr }: StreamNumbers,
): Uint8Array {
  return new FrameWriter()
    .string("id", id)
    .u32("wants", flagsOf(wants))
    .u32("stream", io)
    .u32("stream of stderr", stderr)
    .frame(Request.attach, request);
}

/** `of`: a container's id, or the number of an exec's request. */
export function encodeResize(
  request: number,
  of: string | number,
  { columns, rows }: { columns: number; rows: number },
): Uint8Array {
  const writer = new FrameWriter().string("id", typeof of === "string" ? of : "");
  if (typeof of === "number") writer.u32("request", of);
  return writer.u32("columns", columns).u32("rows", rows).frame(Request.resize, request);
}

export function encodeCancel(request: number, exec: number): Uint8Array {
  return new FrameWriter().u32("exec", exec).frame(Request.cancel, request);
}

/** `exec`: one whose output comes in frames. */
export function encodeHold(request: number, exec: number, held: boolean): Uint8Array {
  const writer = new FrameWriter().u32("exec", exec).u32("held", held ? 1 : 0);
  return writer.frame(Request.hold, request);
}

/** `exec`: as above. */
export function encodeDrop(request: number, exec: number): Uint8Array {
  return new FrameWriter().u32("exec", exec).frame(Request.drop, request);
}

export function encodeDial(
  request: number,
  stream: number,
  port: number,
  deadlineMs: number,
): Uint8Array {
  return new FrameWriter()
    .u32("stream", stream)
    .u32("port", port)
    .u32("deadlineMs", deadlineMs)
    .frame(Request.dial, request);
}

/** `stream`: of a dial that is connected. */
export function encodeDialEnd(request: number, stream: number): Uint8Array {
  return new FrameWriter().u32("stream", stream).frame(Request.dialEnd, request);
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

/** The errno with which a port broke off; 0 when it ended in good order. */
export function decodeDialEnd(payload: Uint8Array): number {
  return new FieldReader(payload).u32();
}

/** The error that the monitor answered with. */
export function decodeError(payload: Uint8Array): CribError {
  const reader = new FieldReader(payload);
  const code = ERROR_CODES[reader.u32()] ?? "Internal";
  return new CribError(code, `pod monitor: ${reader.message()}`);
}
