import { closeSync, constants, openSync } from "node:fs";
import type { Socket } from "bun";
import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { withDeadline } from "./deadline.ts";
import {
  Answer,
  type ContainerExit,
  type ContainerRecord,
  type CreateRequest,
  type CreateResult,
  decodeCreate,
  decodeError,
  decodeExec,
  decodeHello,
  decodeRecord,
  type ExecRequest,
  type ExecResult,
  encodeCreate,
  encodeEmpty,
  encodeExec,
  encodeForId,
  encodeHello,
  encodeKill,
  type Frame,
  FrameParser,
  type Hello,
  PROTOCOL_VERSION,
  Request,
} from "./protocol.ts";

export type {
  ContainerExit,
  ContainerRecord,
  CreateRequest,
  CreateResult,
  ExecRequest,
  ExecResult,
};

/** How long a container's exit waits for the end of its log when a descendant holds it open. */
const LOG_DRAIN_MS = 2_000;
/** What a request may take beyond the deadlines that the monitor itself keeps. */
const MARGIN_MS = 10_000;

interface Pending {
  /** For frames that belong to the request but do not end it. */
  onPart?: (frame: Frame) => void;
  resolve(payload: Uint8Array): void;
  reject(error: Error): void;
  timer: Timer | undefined;
}

/**
 * The connection to one pod's monitor.
 *
 * Every request fails with `Unavailable` when the monitor or the connection is gone, with
 * `DeadlineExceeded` when it answers too late, and with the monitor's own code otherwise.
 */
export class Monitor {
  /** Resolves when the monitor died, was shut down, or another daemon took the connection. */
  readonly closed: Promise<void>;
  private hello: Hello | undefined;
  private socket: Socket | undefined;
  private unsent: Uint8Array[] = [];
  private readonly pending = new Map<number, Pending>();
  private lastRequest = 0;
  private listener: ((exit: ContainerExit) => void) | undefined;
  /** Exits that came before there was a listener. */
  private early: ContainerExit[] = [];
  private markClosed: () => void = () => {};

  private constructor(
    private readonly directory: string,
    private readonly deadlineMs: number,
  ) {
    this.closed = new Promise((resolve) => {
      this.markClosed = resolve;
    });
  }

  /**
   * Connects to the monitor whose socket is in `directory`. A daemon that was connected before is
   * cut off, its execs are killed; everything else is as it was.
   */
  static async connect(directory: string, deadlineMs: number): Promise<Monitor> {
    const monitor = new Monitor(directory, deadlineMs);
    await monitor.open();
    try {
      const payload = await monitor.request(encodeHello, deadlineMs);
      monitor.hello = decodeHello(payload);
      if (monitor.hello.version !== PROTOCOL_VERSION) {
        const versions = `speaks protocol ${monitor.hello.version}, not ${PROTOCOL_VERSION}`;
        throw new CribError("FailedPrecondition", `pod monitor in ${directory} ${versions}`);
      }
      return monitor;
    } catch (error) {
      monitor.disconnect();
      throw error;
    }
  }

  get pid(): number {
    return this.hello?.pid ?? 0;
  }

  /** Of the process that is pid 1 of the pod's shared PID namespace. */
  get pausePid(): number | undefined {
    return this.hello?.pausePid;
  }

  get podId(): string {
    return this.hello?.podId ?? "";
  }

  /** Exits that were already recorded when this daemon connected are in `list`, not here. */
  onExit(listener: (exit: ContainerExit) => void): void {
    this.listener = listener;
    const early = this.early;
    this.early = [];
    for (const exit of early) listener(exit);
  }

  /** Runs the runtime's create; its container becomes a child of the monitor. */
  async create(r: CreateRequest): Promise<CreateResult> {
    const encode = (request: number) => encodeCreate(request, r, LOG_DRAIN_MS);
    return decodeCreate(await this.request(encode, r.deadlineMs + MARGIN_MS));
  }

  /** Runs the runtime's `exec --detach`; the chunks are only valid during the call. */
  async exec(
    r: ExecRequest,
    output: { stdout(chunk: Uint8Array): void; stderr(chunk: Uint8Array): void },
  ): Promise<ExecResult> {
    const limitMs = r.timeoutMs === 0 ? 0 : r.timeoutMs + r.drainMs + MARGIN_MS;
    const payload = await this.request(
      (request) => encodeExec(request, r),
      limitMs,
      ({ type, payload }) => {
        if (type !== Answer.execOutput) return;
        const chunk = payload.subarray(1);
        if (payload[0] === 2) output.stderr(chunk);
        else output.stdout(chunk);
      },
    );
    return decodeExec(payload);
  }

  /** Opens the container's log path anew (after its file was renamed); loses nothing. */
  async reopenLog(id: string): Promise<void> {
    await this.request((request) => encodeForId(request, Request.reopenLog, id));
  }

  /** Signals the container's init; FailedPrecondition when it does not run (any more). */
  async kill(id: string, signal: number): Promise<void> {
    await this.request((request) => encodeKill(request, id, signal));
  }

  async list(): Promise<ContainerRecord[]> {
    const records: ContainerRecord[] = [];
    await this.request(
      (request) => encodeEmpty(request, Request.list),
      this.deadlineMs,
      ({ type, payload }) => {
        if (type === Answer.listEntry) records.push(decodeRecord(payload));
      },
    );
    return records;
  }

  /** Drops an exited container and its exit record; first cancels one that is being created. */
  async forget(id: string): Promise<void> {
    await this.request((request) => encodeForId(request, Request.forget, id));
  }

  /** Ends the monitor and the pause, whatever still runs; the caller unmounts the pins. */
  async shutdown(): Promise<void> {
    await this.request((request) => encodeEmpty(request, Request.shutdown));
    await withDeadline(this.closed, this.deadlineMs, "pod monitor: shutdown");
  }

  /** Leaves the monitor as it is; `closed` resolves. */
  disconnect(): void {
    this.socket?.terminate();
    this.close();
  }

  private async open(): Promise<void> {
    /* Through /proc, because the directory's own path may be longer than a socket's may be. */
    const flags = constants.O_RDONLY | constants.O_DIRECTORY;
    const directory = await openDirectory(this.directory, flags);
    const parser = new FrameParser((frame) => this.receive(frame));
    try {
      const connecting = Bun.connect({
        unix: `/proc/self/fd/${directory}/monitor.sock`,
        socket: {
          data: (_, chunk) => this.parse(parser, chunk),
          drain: () => this.flush(),
          close: () => this.close(),
          error: (_, error) => {
            log().warn({ directory: this.directory, error: error.message }, "pod monitor socket");
          },
        },
      });
      this.socket = await withDeadline(connecting, this.deadlineMs, "pod monitor: connect");
    } catch (error) {
      const where = `pod monitor in ${this.directory}`;
      throw new CribError("Unavailable", `${where}: ${messageOf(error)}`, { cause: error });
    } finally {
      closeSync(directory);
    }
  }

  private request(
    encode: (request: number) => Uint8Array,
    limitMs = this.deadlineMs,
    onPart?: (frame: Frame) => void,
  ): Promise<Uint8Array> {
    this.lastRequest = (this.lastRequest % 0x7fffffff) + 1;
    const number = this.lastRequest;
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    const bytes = encode(number);
    if (this.socket === undefined) return Promise.reject(this.gone());
    const expire = () => {
      this.pending.delete(number);
      const text = `pod monitor in ${this.directory}: no answer within ${limitMs} ms`;
      reject(new CribError("DeadlineExceeded", text));
    };
    const timer = limitMs > 0 ? setTimeout(expire, limitMs) : undefined;
    this.pending.set(number, { onPart, resolve, reject, timer });
    this.unsent.push(bytes);
    this.flush();
    return promise;
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
    if (frame.type === Answer.exit) {
      const { exit } = decodeRecord(frame.payload);
      if (exit !== undefined) this.tell(exit);
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

  private tell(exit: ContainerExit): void {
    if (this.listener === undefined) {
      this.early.push(exit);
      return;
    }
    try {
      this.listener(exit);
    } catch (error) {
      log().error({ id: exit.id, error: messageOf(error) }, "a container's exit was not handled");
    }
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

async function openDirectory(path: string, flags: number): Promise<number> {
  try {
    return openSync(path, flags);
  } catch (error) {
    const text = `pod monitor in ${path}: ${messageOf(error)}`;
    throw new CribError("Unavailable", text, { cause: error });
  }
}
