import type { Writable } from "node:stream";
import { finished } from "node:stream/promises";
import type { CommandChannels, CommandRequest, Outcome } from "./channels.ts";
import { readSizes } from "./resize.ts";
import type { SpdyOptions, SpdySession } from "./spdy-session.ts";
import type { SpdyStream, StreamHeaders } from "./spdy-stream.ts";
import { statusMessage } from "./status.ts";

/** The channel protocols over SPDY, in the order in which a server names them. */
export const COMMAND_PROTOCOLS = [
  "v4.channel.k8s.io",
  "v3.channel.k8s.io",
  "v2.channel.k8s.io",
  "channel.k8s.io",
];

const KINDS = ["error", "stdin", "stdout", "stderr", "resize"] as const;
type Kind = (typeof KINDS)[number];

/**
 * A client's streams of an exec or attach over SPDY, by the header "streamtype". Give `refuse` and
 * `opened` to the session.
 */
export class SpdyCommand implements Pick<SpdyOptions, "refuse" | "opened"> {
  /** Resolves when the client has opened all that its request says. */
  readonly complete: Promise<void>;
  readonly #streams = new Map<Kind, SpdyStream>();
  readonly #wanted: Kind[];
  #markComplete: () => void = () => {};
  #late = false;

  constructor(
    private readonly request: Omit<CommandRequest, "containerId" | "command">,
    private readonly protocol: string,
  ) {
    this.#wanted = KINDS.filter((kind) => this.#isWanted(kind));
    this.complete = new Promise((resolve) => {
      this.#markComplete = resolve;
    });
  }

  refuse({ streamtype }: StreamHeaders): string | undefined {
    if (this.#late) return "too late";
    const kind = kindOf(streamtype);
    if (kind === undefined) return `streamtype ${JSON.stringify(streamtype)}`;
    return this.#streams.has(kind) ? `a second stream of type ${kind}` : undefined;
  }

  opened(stream: SpdyStream): void {
    const kind = kindOf(stream.headers.streamtype);
    if (kind === undefined) return;
    this.#streams.set(kind, stream);
    // What clients send on streams for output, or that were not asked for, is dropped.
    const read = (kind === "stdin" || kind === "resize") && this.#wanted.includes(kind);
    if (!read) stream.resume();
    if (this.#wanted.every((it) => this.#streams.has(it))) this.#markComplete();
  }

  /** Takes no more streams. @returns Those that have been asked for and are missing. */
  tooLate(): string[] {
    this.#late = true;
    return this.#wanted.filter((kind) => !this.#streams.has(kind));
  }

  /** Call it when the streams are complete, or to tell the client that they are not. */
  channels(session: SpdySession): CommandChannels {
    const stream = (kind: Kind) =>
      this.#wanted.includes(kind) ? this.#streams.get(kind) : undefined;
    const output: Writable[] = [stream("stdout"), stream("stderr")].filter(
      (it) => it !== undefined,
    );
    const resize = stream("resize");
    return {
      stdin: stream("stdin"),
      stdout: stream("stdout"),
      stderr: stream("stderr"),
      onResize: (listener) => {
        if (resize !== undefined) readSizes(resize, listener);
      },
      finish: (outcome) => this.#finish(session, output, outcome),
      closed: session.over,
    };
  }

  async #finish(session: SpdySession, output: Writable[], outcome: Outcome): Promise<void> {
    await Promise.all(output.map(flushed));
    const error = this.#streams.get("error");
    const message = statusMessage(outcome, this.protocol === COMMAND_PROTOCOLS[0]);
    if (error !== undefined && !error.destroyed && message !== "") error.write(message);
    const ends = error === undefined ? output : [...output, error];
    await Promise.all(ends.map(ended));
    session.finish();
  }

  #isWanted(kind: Kind): boolean {
    if (kind === "error") return true;
    if (kind !== "resize") return this.request[kind];
    const index = COMMAND_PROTOCOLS.indexOf(this.protocol);
    return this.request.tty && index >= 0 && index <= 1;
  }
}

function kindOf(streamtype: string): Kind | undefined {
  const name = streamtype.toLowerCase();
  return KINDS.find((kind) => kind === name);
}

/** Resolves when all that was written is on its way, or the stream is gone. */
function flushed(stream: Writable): Promise<void> {
  if (stream.destroyed) return Promise.resolve();
  return new Promise((resolve) => {
    stream.once("close", () => resolve());
    stream.write(EMPTY, () => resolve());
  });
}

async function ended(stream: Writable): Promise<void> {
  stream.end();
  await finished(stream, { readable: false }).catch(() => undefined);
}

const EMPTY = Buffer.alloc(0);
