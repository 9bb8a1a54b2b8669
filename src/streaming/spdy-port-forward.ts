import { finished } from "node:stream";
import type { ForwardedConnection } from "./channels.ts";
import { MAX_CONNECTIONS } from "./forward.ts";
import type { SpdyOptions } from "./spdy-session.ts";
import type { SpdyStream, StreamHeaders } from "./spdy-stream.ts";

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

  /**
   * @param connected Is told of each connection whose streams are both there.
   * @param ports The only ones, when there are any. The kubelet asks for none: each stream names its port.
   */
  constructor(
    private readonly creationTimeoutMs: number,
    private readonly connected: (connection: ForwardedConnection) => void,
    private readonly ports: readonly number[] = [],
  ) {}

  refuse(headers: StreamHeaders): string | undefined {
    const port = portOf(headers);
    if (port === undefined || (this.ports.length > 0 && !this.ports.includes(port))) {
      return `port ${JSON.stringify(headers.port)}`;
    }
    const kind = kindOf(headers);
    if (kind === undefined) return `streamtype ${JSON.stringify(headers.streamtype)}`;
    const id = JSON.stringify(headers.requestid);
    const pair = this.#pairs.get(headers.requestid);
    if (pair?.[kind] !== undefined) return `a second ${kind} stream for request ${id}`;
    return pair === undefined && this.#pairs.size >= MAX_CONNECTIONS
      ? `${MAX_CONNECTIONS} connections wait for their second stream`
      : undefined;
  }

  opened(stream: SpdyStream): void {
    const id = requestIdOf(stream);
    const kind = kindOf(stream.headers);
    const pair = this.#pairs.get(id) ?? this.#begin(id);
    if (kind !== undefined) pair[kind] = stream;
    // The client only listens on this one.
    if (kind === "error") stream.resume();
    if (pair.error === undefined || pair.data === undefined) {
      stream.once("close", () => {
        if (this.#pairs.get(id) === pair) this.#end(id, pair);
      });
      return;
    }
    this.#drop(id, pair);
    const port = portOf(pair.data.headers);
    if (port !== undefined) this.connected(toConnection(port, pair.data, pair.error));
  }

  /** Connections whose second stream has not come. */
  get pending(): number {
    return this.#pairs.size;
  }

  /** The client is gone. */
  close(): void {
    for (const [id, pair] of this.#pairs) this.#drop(id, pair);
  }

  #begin(id: string): Pair {
    const timer = setTimeout(() => this.#end(id, pair), this.creationTimeoutMs);
    const pair: Pair = { timer };
    this.#pairs.set(id, pair);
    return pair;
  }

  /** The second stream did not come in time, or the first one has gone. */
  #end(id: string, pair: Pair): void {
    this.#drop(id, pair);
    pair.error?.end("timed out: the data stream is missing");
    pair.data?.destroy();
  }

  #drop(id: string, { timer }: Pair): void {
    clearTimeout(timer);
    this.#pairs.delete(id);
  }
}

function toConnection(port: number, data: SpdyStream, error: SpdyStream): ForwardedConnection {
  // The client waits for the end of both streams, however the data's came.
  finished(data, { readable: false }, () => error.end());
  return {
    port,
    data,
    fail: (message) => {
      // The client has reset the data stream, and needs to know no more.
      if (error.writableEnded) return;
      error.end(message, () => data.destroy());
      error.once("close", () => data.destroy());
    },
    // Kubernetes' server also sends the text, upon which kubectl gives up all other connections.
    reset: () => {
      data.resume();
      data.flushed(() => data.destroy());
    },
  };
}

function kindOf({ streamtype }: StreamHeaders): "error" | "data" | undefined {
  const kind = streamtype.toLowerCase();
  return kind === "error" || kind === "data" ? kind : undefined;
}

function portOf({ port: text }: StreamHeaders): number | undefined {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  return port >= 1 && port <= 65_535 ? port : undefined;
}

/** Old clients send none; they open the error stream, then the data stream. */
function requestIdOf(stream: SpdyStream): string {
  const { requestid } = stream.headers;
  if (requestid !== "") return requestid;
  return `stream ${kindOf(stream.headers) === "error" ? stream.id : stream.id - 2}`;
}
