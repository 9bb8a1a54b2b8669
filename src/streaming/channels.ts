import type { Duplex, Readable, Writable } from "node:stream";
import type { CommandRequest, ProcessStreams, TerminalSize } from "../container/streams.ts";

export type { CommandRequest };

/** What the streaming server needs from the rest of Crib. Failures are CribErrors. */
export interface StreamingBackend {
  exec(request: CommandRequest): Promise<ProcessStreams>;
  attach(request: CommandRequest): Promise<ProcessStreams>;
  /** A connection to a port of localhost in the pod's network namespace, IPv4 then IPv6. */
  dial(podSandboxId: string, port: number): Promise<PortConnection>;
}

/** Half-open; a port that breaks it off destroys it with an error, behind all that it has said. */
export interface PortConnection extends Duplex {
  /** While it is held nothing is read from the port, not even ahead. */
  hold(held: boolean): void;
}

/**
 * A client's side of an exec or attach, whatever the wire: SPDY or WebSocket. Streams are there as the
 * client's request said.
 */
export interface CommandChannels {
  readonly stdin: Readable | undefined;
  readonly stdout: Writable | undefined;
  readonly stderr: Writable | undefined;
  /** Sizes that came before there was a listener are kept: it is told the last one. */
  onResize(listener: (size: TerminalSize) => void): void;
  /** Sends what is still queued, then how it ended, then closes the connection in good order. */
  finish(outcome: Outcome): Promise<void>;
  /** Resolves when nothing more can be exchanged with the client, whoever ended it. */
  readonly closed: Promise<void>;
}

/** How an exec or attach ended; each wire and protocol version writes it in its own way. */
export type Outcome = { exitCode: number } | { error: string };

/** One connection that a client wants forwarded. */
export interface ForwardedConnection {
  readonly port: number;
  readonly data: Duplex;
  /** Tells the client why its connection was not made; its other connections go on. */
  fail(message: string): void;
  /** Tells the client, behind all data, that the port has broken it off; its other connections go on. */
  reset(message: string): void;
}
