import type { Duplex } from "node:stream";
import { getSystemErrorMap } from "node:util";
import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { Connection } from "./connection.ts";
import { withDeadline } from "./deadline.ts";
import type { Frame } from "./frame.ts";
import {
  Answer,
  decodeCreate,
  decodeDialEnd,
  decodeExec,
  decodeHello,
  decodeRecord,
  encodeAttach,
  encodeCancel,
  encodeCreate,
  encodeDial,
  encodeDialEnd,
  encodeDrop,
  encodeEmpty,
  encodeExec,
  encodeForId,
  encodeHello,
  encodeHold,
  encodeKill,
  encodeResize,
  type Hello,
  PROTOCOL_VERSION,
  Request,
  STREAMS_VERSION,
  type StreamNumbers,
} from "./protocol.ts";
import { openStream, type Stream } from "./stream.ts";
import type { StreamSocket } from "./stream-socket.ts";
import type {
  ContainerExit,
  ContainerRecord,
  CreateRequest,
  CreateResult,
  ExecOutput,
  ExecRequest,
  ExecResult,
  SetFlow,
  Wants,
} from "./types.ts";

/** How long a container's exit waits for the end of its log when a descendant holds it open. */
const LOG_DRAIN_MS = 2_000;
/** What a request may take beyond the deadlines that the monitor itself keeps. */
const MARGIN_MS = 10_000;

/** The live streams of a process, and what the monitor says in the end. */
export interface Live<Result> {
  /** stdin and stdout; undefined when neither is wanted. */
  readonly io: Duplex | undefined;
  readonly stderr: Duplex | undefined;
  resize(size: { columns: number; rows: number }): void;
  /** All output is on the sockets then. */
  readonly ended: Promise<Result>;
  /** Gives back the sockets. Idempotent. */
  close(): void;
}

/** A promise that nobody need wait for. */
function quiet<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}

/** Exits that came before there was a listener are kept for it. */
class Exits {
  private listener: ((exit: ContainerExit) => void) | undefined;
  private early: ContainerExit[] = [];

  listen(listener: (exit: ContainerExit) => void): void {
    this.listener = listener;
    const early = this.early;
    this.early = [];
    for (const exit of early) listener(exit);
  }

  tell(exit: ContainerExit): void {
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
}

/** One pod's monitor. For failures see `Connection`. */
export class Monitor {
  private pauseId: number | undefined;

  private constructor(
    private readonly connection: Connection,
    private readonly hello: Hello,
    private readonly exits: Exits,
    /** Resolves when the pod's shared PID namespace is dead; at once where the pod has none. */
    readonly pauseEnded: Promise<void>,
  ) {
    this.pauseId = hello.pausePid;
    void pauseEnded.then(() => {
      this.pauseId = undefined;
    });
  }

  /**
   * Connects to the monitor whose socket is in `directory`. A daemon that was connected before is cut
   * off, its execs without streams are killed; everything else is as it was.
   */
  static async connect(directory: string, deadlineMs: number): Promise<Monitor> {
    const exits = new Exits();
    const pauseEnded = Promise.withResolvers<void>();
    const connection = await Connection.open(directory, deadlineMs, ({ type, payload }) => {
      if (type === Answer.pauseEnded) return pauseEnded.resolve();
      const { exit } = decodeRecord(payload);
      if (exit !== undefined) exits.tell(exit);
    });
    try {
      const hello = decodeHello(await connection.call(encodeHello).reply);
      if (hello.pausePid === undefined) pauseEnded.resolve();
      return new Monitor(connection, hello, exits, pauseEnded.promise);
    } catch (error) {
      connection.disconnect();
      throw error;
    }
  }

  /** Resolves when the monitor died, was shut down, or another daemon took the connection. */
  get closed(): Promise<void> {
    return this.connection.closed;
  }

  get pid(): number {
    return this.hello.pid;
  }

  /** Of the process that is pid 1 of the pod's shared PID namespace; undefined without a living one. */
  get pausePid(): number | undefined {
    return this.pauseId;
  }

  get podId(): string {
    return this.hello.podId;
  }

  /**
   * @param what it needs: terminals, attaching, ...
   * @throws CribError Unimplemented: a monitor lives as long as its pod, and this one is too old.
   */
  requireStreams(what: string): void {
    const version = Math.min(this.hello.version, PROTOCOL_VERSION);
    if (version >= STREAMS_VERSION) return;
    throw new CribError(
      "Unimplemented",
      `${what}: this pod was started by an older Crib, whose monitor cannot do that (protocol ` +
        `${version}, ${STREAMS_VERSION} is needed): make the pod anew`,
    );
  }

  /** Exits that were already recorded when this daemon connected are in `list`, not here. */
  onExit(listener: (exit: ContainerExit) => void): void {
    this.exits.listen(listener);
  }

  /** Runs the runtime's create; its container becomes a child of the monitor. */
  async create(r: CreateRequest): Promise<CreateResult> {
    if (r.consoleSocket !== undefined) this.requireStreams("tty");
    const encode = (request: number) => encodeCreate(request, r, LOG_DRAIN_MS);
    const limitMs = r.deadlineMs + MARGIN_MS;
    return decodeCreate(await this.connection.call(encode, { limitMs }).reply);
  }

  /**
   * Runs the runtime's `exec --detach`.
   *
   * @param signal aborted: the process is killed, and the result soon there.
   */
  async exec(r: ExecRequest, output: ExecOutput, signal?: AbortSignal): Promise<ExecResult> {
    const limitMs = r.timeoutMs === 0 ? 0 : r.timeoutMs + r.drainMs + MARGIN_MS;
    const { request, reply } = this.connection.call((request) => encodeExec(request, r), {
      limitMs,
      onPart: ({ type, payload }) => {
        if (type !== Answer.execOutput) return;
        const chunk = payload.subarray(1);
        if (payload[0] === 2) output.stderr(chunk, setFlow);
        else output.stdout(chunk, setFlow);
      },
    });
    const setFlow: SetFlow = async (flow) => {
      const encode = (number: number) =>
        flow === "dropped"
          ? encodeDrop(number, request)
          : encodeHold(number, request, flow === "held");
      await this.connection.call(encode).reply;
    };
    const cancel = () => this.send((number) => encodeCancel(number, request));
    signal?.addEventListener("abort", cancel);
    try {
      if (signal?.aborted) cancel();
      return decodeExec(await reply);
    } finally {
      signal?.removeEventListener("abort", cancel);
    }
  }

  /**
   * The same with live streams. When these close before its end the process is not killed: its terminal
   * hangs up, its input ends, its output breaks.
   *
   * @param consoleSocket with a terminal: as in `CreateRequest`; `r.cwd` is the directory.
   */
  async execLive(r: ExecRequest, wants: Wants, consoleSocket: string): Promise<Live<ExecResult>> {
    const { of, ...live } = await this.live("exec", wants, (request, streams) =>
      encodeExec(request, r, { ...streams, wants, consoleSocket }),
    );
    return {
      ...live,
      resize: (size) => this.send((number) => encodeResize(number, of, size)),
      ended: quiet(live.ended.then(decodeExec)),
    };
  }

  /** Shows the container's output from now on. Ends when the container does, or the client leaves. */
  async attach(id: string, wants: Wants): Promise<Live<void>> {
    const { of: _, ...live } = await this.live("attach", wants, (request, streams) =>
      encodeAttach(request, id, wants, streams),
    );
    return {
      ...live,
      resize: (size) => this.send((number) => encodeResize(number, id, size)),
      ended: quiet(live.ended.then(() => undefined)),
    };
  }

  /**
   * A connection to a port of localhost in the pod's network namespace, IPv4, else IPv6. A port that breaks
   * it off destroys it with an error, behind all that it has said.
   */
  async dial(port: number, deadlineMs: number): Promise<StreamSocket> {
    this.requireStreams("port-forward");
    const stream = await this.openStream();
    try {
      const encode = (request: number) => encodeDial(request, stream.number, port, deadlineMs);
      await this.connection.call(encode, { limitMs: deadlineMs + MARGIN_MS }).reply;
      const broken = quiet(this.brokenDial(stream.number));
      stream.socket.endsWith(broken);
      return stream.socket;
    } catch (error) {
      stream.socket.destroy();
      throw error;
    }
  }

  /** Opens the container's log path anew (after its file was renamed); loses nothing. */
  async reopenLog(id: string): Promise<void> {
    await this.connection.call((request) => encodeForId(request, Request.reopenLog, id)).reply;
  }

  /** Signals the container's init; FailedPrecondition when it does not run (any more). */
  async kill(id: string, signal: number): Promise<void> {
    await this.connection.call((request) => encodeKill(request, id, signal)).reply;
  }

  async list(): Promise<ContainerRecord[]> {
    const records: ContainerRecord[] = [];
    const onPart = ({ type, payload }: Frame) => {
      if (type === Answer.listEntry) records.push(decodeRecord(payload));
    };
    await this.connection.call((request) => encodeEmpty(request, Request.list), { onPart }).reply;
    return records;
  }

  /** Drops an exited container and its exit record; first cancels one that is being created. */
  async forget(id: string): Promise<void> {
    await this.connection.call((request) => encodeForId(request, Request.forget, id)).reply;
  }

  /** Ends the monitor and the pause, whatever still runs; the caller unmounts the pins. */
  async shutdown(): Promise<void> {
    await this.connection.call((request) => encodeEmpty(request, Request.shutdown)).reply;
    await withDeadline(this.closed, this.connection.deadlineMs, "pod monitor: shutdown");
  }

  /** Leaves the monitor as it is; `closed` resolves. */
  disconnect(): void {
    this.connection.disconnect();
  }

  /** How a port has broken off; undefined when it ended in good order. */
  private async brokenDial(stream: number): Promise<Error | undefined> {
    try {
      const encode = (request: number) => encodeDialEnd(request, stream);
      const errno = decodeDialEnd(await this.connection.call(encode, { limitMs: 0 }).reply);
      if (errno === 0) return undefined;
      const [name, text] = getSystemErrorMap().get(-errno) ?? ["", `errno ${errno}`];
      return Object.assign(new Error(text), { code: name });
    } catch (error) {
      // A monitor of an older Crib does not know, or forgets one that has ended at once.
      const unknown = ["Unimplemented", "NotFound"];
      if (error instanceof CribError && unknown.includes(error.code)) return undefined;
      return error instanceof Error ? error : new Error(String(error));
    }
  }

  private openStream(): Promise<Stream> {
    return openStream(this.connection.directory, this.connection.deadlineMs);
  }

  /** A request whose reply tells nothing: what it is about may have ended meanwhile. */
  private send(encode: (request: number) => Uint8Array): void {
    this.connection.call(encode).reply.catch((error: unknown) => {
      log().debug({ error: messageOf(error) }, "pod monitor");
    });
  }

  /** Opens the streams that are wanted, then makes the request that names them. */
  private async live(
    what: string,
    wants: Wants,
    encode: (request: number, streams: StreamNumbers) => Uint8Array,
  ): Promise<Omit<Live<Uint8Array>, "resize"> & { of: number }> {
    this.requireStreams(what);
    const wanted = [wants.stdin || wants.stdout || wants.tty, wants.stderr];
    const opening = wanted.map((is) => (is ? this.openStream() : undefined));
    const opened = await Promise.allSettled(opening);
    const close = () => {
      for (const each of opened) if (each.status === "fulfilled") each.value?.socket.destroy();
    };
    try {
      const [io, stderr] = await Promise.all(opening);
      const numbers = { io: io?.number ?? 0, stderr: stderr?.number ?? 0 };
      const call = this.connection.call((request) => encode(request, numbers), { limitMs: 0 });
      // Nothing to say: so it can close as soon as all is read.
      if (!wants.stdin) io?.socket.end();
      if (!wants.stdout) io?.socket.resume();
      stderr?.socket.end();
      return {
        io: io?.socket,
        stderr: stderr?.socket,
        ended: quiet(call.reply),
        close,
        of: call.request,
      };
    } catch (error) {
      close();
      throw error;
    }
  }
}
