import { finished } from "node:stream";
import type { ForwardedConnection } from "./channels.ts";
import type { SpdyOptions } from "./spdy-session.ts";
import type { SpdyStream } from "./spdy-stream.ts";

/** The port-forward protocol over SPDY. */
export const FORWARD_PROTOCOLS = ["portforward.k8s.io"];

interface Pair {
  error?: SpdyStream;
  data?: SpdyStream;
  timer: Timer;
}

/**
 * A client's forwarded connections over SPDY: each is a pair of streams, "error" and "data", with the
 * same request id. Give `refuse` and `opened` to the session.
 */
export class SpdyPortForward implements Pick<SpdyOptions, "refuse" | "opened"> {
  /** Pairs that are not complete, by request id. */
  readonly #pairs = new Map<string, Pair>();

  /** @param connected Is told of each connection whose streams are both there. */
  constructor(
    private readonly creationTimeoutMs: number,
    private readonly connected: (connection: ForwardedConnection) => void,
  ) {}

  refuse(headers: ReadonlyMap<string, string>): string | undefined {
    if (portOf(headers) === undefined) return `port ${JSON.stringify(headers.get("port") ?? "")}`;
    const kind = kindOf(headers);
    if (kind === undefined) return `streamtype ${JSON.stringify(headers.get("streamtype") ?? "")}`;
    const id = headers.get("requestid") ?? "";
    return this.#pairs.get(id)?.[kind] === undefined
      ? undefined
      : `a second ${kind} stream for request ${JSON.stringify(id)}`;
  }

  opened(stream: SpdyStream): void {
    const id = requestIdOf(stream);
    const kind = kindOf(stream.headers);
    const pair = this.#pairs.get(id) ?? this.#begin(id);
    if (kind !== undefined) pair[kind] = stream;
    // The client only listens on this one.
    if (kind === "error") stream.resume();
    if (pair.error === undefined || pair.data === undefined) return;
    clearTimeout(pair.timer);
    this.#pairs.delete(id);
    const port = portOf(pair.data.headers);
    if (port !== undefined) this.connected(toConnection(port, pair.data, pair.error));
  }

  /** The client is gone. */
  close(): void {
    for (const { timer } of this.#pairs.values()) clearTimeout(timer);
    this.#pairs.clear();
  }

  #begin(id: string): Pair {
    const timer = setTimeout(() => {
      this.#pairs.delete(id);
      pair.error?.end("timed out: the data stream is missing");
      pair.data?.destroy();
    }, this.creationTimeoutMs);
    const pair: Pair = { timer };
    this.#pairs.set(id, pair);
    return pair;
  }
}

function toConnection(port: number, data: SpdyStream, error: SpdyStream): ForwardedConnection {
  // The client waits for the end of both streams, however the data's came.
  finished(data, { readable: false }, () => error.end());
  return {
    port,
    data,
    fail: (message) => {
      error.end(message, () => data.destroy());
      error.once("close", () => data.destroy());
    },
  };
}

function kindOf(headers: ReadonlyMap<string, string>): "error" | "data" | undefined {
  const kind = headers.get("streamtype")?.toLowerCase();
  return kind === "error" || kind === "data" ? kind : undefined;
}

function portOf(headers: ReadonlyMap<string, string>): number | undefined {
  const text = headers.get("port") ?? "";
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  return port >= 1 && port <= 65_535 ? port : undefined;
}

/** Old clients send none; they open the error stream, then the data stream. */
function requestIdOf(stream: SpdyStream): string {
  const id = stream.headers.get("requestid") ?? "";
  if (id !== "") return id;
  return `stream ${kindOf(stream.headers) === "error" ? stream.id : stream.id - 2}`;
}
