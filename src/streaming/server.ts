import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type Server,
} from "node:http";
import {
  createServer as createTcpServer,
  isIPv6,
  type Socket,
  type Server as TcpServer,
} from "node:net";
import type { Duplex } from "node:stream";
import {
  createServer as createTlsServer,
  type TlsOptions,
  type Server as TlsServer,
} from "node:tls";
import { CribError, messageOf } from "../error.ts";
import { log, withoutRequest } from "../observe/log.ts";
import { OneATurn } from "../observe/one-a-turn.ts";
import type { StreamingBackend } from "./channels.ts";
import { readRequestHead } from "./request-head.ts";
import { isSpdy, serveSpdy } from "./spdy.ts";
import { Tokens } from "./tokens.ts";
import { refuseUpgrade, type StreamingRequest, type Upgrade } from "./upgrade.ts";
import { isWebSocket, serveWebSocket } from "./websocket-upgrade.ts";

/** PEM texts. With `clientCa`, clients need a certificate of it. */
export interface TlsMaterial {
  cert: string;
  key: string;
  clientCa: string | undefined;
}

export interface StreamingOptions {
  /** An IP address. */
  address: string;
  /** 0 takes a free one. */
  port: number;
  idleTimeoutMs: number;
  creationTimeoutMs: number;
  maxSessions: number;
  /** 10 s when absent. */
  requestTimeoutMs?: number;
  tls: TlsMaterial | undefined;
}

/** One line of `crib status`. */
export interface SessionView {
  kind: StreamingRequest["kind"];
  /** Of the container or the pod. */
  object: string;
  ageMs: number;
}

interface Session extends Omit<SessionView, "ageMs"> {
  since: number;
  abort: AbortController;
  socket: Duplex;
}

const PATH = /^\/(exec|attach|portforward)\/([\w-]{1,64})(?:\?|$)/;
/** How long a connection may take to say what it wants, the TLS handshake included. */
const REQUEST_TIMEOUT_MS = 10_000;
/** Connections that have not said yet what they want. */
const MAX_UNDECIDED = 256;
const KEEP_ALIVE_MS = 15_000;
const MAX_HEADER_BYTES = 16 * 1024;
/** How long clients have to fetch their farewell when the daemon ends. */
const FAREWELL_MS = 1_000;

/**
 * The HTTP server to which the URLs of Exec, Attach and PortForward lead. It serves whoever has a token;
 * all else that a client says is not believed.
 */
export class StreamingServer {
  readonly #http: Server;
  readonly #listener: TcpServer | TlsServer;
  readonly #tokens = new Tokens<StreamingRequest>();
  readonly #sessions = new Set<Session>();
  readonly #undecided = new Map<Duplex, Timer>();
  readonly #reading = new OneATurn();
  #base = "";

  constructor(
    private readonly options: StreamingOptions,
    private readonly backend: StreamingBackend,
  ) {
    this.#http = createServer({ maxHeaderSize: MAX_HEADER_BYTES }, (request) =>
      this.#plain(request),
    );
    this.#http.on("upgrade", (request, socket, head) => this.#upgrade(request, socket, head));
    this.#http.on("clientError", refuseMalformed);
    const { tls } = options;
    // The HTTP server never listens itself: https.Server cannot change its certificates.
    if (tls === undefined) this.#listener = createTcpServer({ allowHalfOpen: true });
    else {
      this.#listener = createTlsServer(tlsOptions(tls));
      this.#listener.on("tlsClientError", (error: Error) => {
        log().info({ error: error.message }, "streaming: TLS handshake failed");
      });
    }
    // With TLS too this comes before the handshake, which Bun gives all the time in the world.
    this.#listener.on("connection", (socket: Socket) => this.#accept(socket));
    const ready = tls === undefined ? "connection" : "secureConnection";
    this.#listener.on(ready, (socket: Socket) => {
      void this.#reading.next().then(() => {
        if (!socket.destroyed) this.#read(socket);
      });
    });
  }

  /** @throws CribError Unavailable: address and port cannot be had. */
  async listen(): Promise<void> {
    const { address, port, tls } = this.options;
    await new Promise<void>((resolve, reject) => {
      this.#listener.once("error", (error) => {
        const where = `streaming server: ${address}, port ${port}`;
        reject(new CribError("Unavailable", `${where}: ${messageOf(error)}`, { cause: error }));
      });
      this.#listener.listen(port, address, () => resolve());
    });
    this.#listener.on("error", (error) => log().error({ error: messageOf(error) }, "streaming"));
    const bound = this.#listener.address();
    if (bound === null || typeof bound === "string") throw new Error("the listener has no port");
    const host = hostFor(address);
    this.#base = `${tls === undefined ? "http" : "https"}://${host}:${bound.port}`;
    log().info({ url: this.#base }, "streaming server is up");
  }

  /** Handshakes from now on use these. @throws Error when they do not fit. */
  renew(tls: TlsMaterial): void {
    if ("setSecureContext" in this.#listener) this.#listener.setSecureContext(tlsOptions(tls));
  }

  /**
   * Where the client that this request came from may connect: once, within a minute.
   *
   * @throws CribError ResourceExhausted: too many sessions, or clients that have not connected yet.
   */
  url(request: StreamingRequest): string {
    this.#requireRoom();
    return `${this.#base}/${request.kind}/${this.#tokens.issue(request)}`;
  }

  /** The sessions that are open, the oldest first. */
  sessions(): SessionView[] {
    const now = performance.now();
    return [...this.#sessions].map(({ kind, object, since }) => ({
      kind,
      object,
      ageMs: Math.round(now - since),
    }));
  }

  /** Takes no more clients, tells those that are there, and then cuts them off. */
  async close(): Promise<void> {
    this.#listener.close();
    for (const socket of this.#undecided.keys()) socket.destroy();
    const reason = new CribError("Unavailable", "the container runtime is shutting down");
    for (const { abort } of this.#sessions) abort.abort(reason);
    const end = performance.now() + FAREWELL_MS;
    while (this.#sessions.size > 0 && performance.now() < end) await Bun.sleep(10);
    for (const { socket } of this.#sessions) socket.destroy();
  }

  #requireRoom(): void {
    const { maxSessions } = this.options;
    if (this.#sessions.size < maxSessions) return;
    const text = `${maxSessions} streaming sessions are open (streaming.max_sessions)`;
    throw new CribError("ResourceExhausted", text);
  }

  #accept(socket: Socket): void {
    socket.on("error", (error) => log().debug({ error: error.message }, "streaming: connection"));
    // Who means it speaks at once: those who hold connections open do not keep others out.
    const [oldest] = this.#undecided.keys();
    if (oldest !== undefined && this.#undecided.size >= MAX_UNDECIDED) {
      this.#decided(oldest);
      oldest.destroy();
    }
    const { requestTimeoutMs = REQUEST_TIMEOUT_MS } = this.options;
    const late = setTimeout(() => socket.destroy(), requestTimeoutMs);
    this.#undecided.set(socket, late);
    socket.once("close", () => this.#decided(socket));
    // A client whose machine is gone says nothing.
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    socket.setNoDelay(true);
  }

  #decided(socket: Duplex): void {
    clearTimeout(this.#undecided.get(socket));
    this.#undecided.delete(socket);
  }

  #read(socket: Socket): void {
    // So much is too long however the parser counts, and it says so.
    readRequestHead(socket, 2 * MAX_HEADER_BYTES, (head) => {
      const [method, token] = requestLine(head);
      // Most that knows no token means no good: it is not worth a parser.
      if (method === "") refuseUpgrade(socket, 400, NOT_HTTP);
      else if (PLAIN_METHODS.has(method) && !this.#tokens.has(token)) {
        refuseUpgrade(socket, 404, NO_TOKEN);
      } else {
        this.#http.emit("connection", socket);
        socket.emit("data", head);
      }
    });
  }

  /** The token's request, and its end: a token is good for one try. */
  #take({ url }: IncomingMessage): StreamingRequest | undefined {
    const [, kind, token = ""] = PATH.exec(url ?? "") ?? [];
    const request = this.#tokens.take(token);
    return request?.kind === kind ? request : undefined;
  }

  #plain(request: IncomingMessage): void {
    const { socket } = request;
    // It is the connection's last: nothing after it is taken for another.
    socket.removeAllListeners("data");
    const known = this.#take(request) !== undefined;
    if (known) refuseUpgrade(socket, 400, "unable to upgrade: the Upgrade header is missing");
    else refuseUpgrade(socket, 404, NO_TOKEN);
  }

  /** A client that is refused counts as one that has not said what it wants, until it has gone. */
  #upgrade(message: IncomingMessage, socket: Duplex, head: Buffer): void {
    const { method, headers } = message;
    if (method !== "GET" && method !== "POST") {
      refuseUpgrade(socket, 405, `${method} is none of GET, POST`, { Allow: "GET, POST" });
      return;
    }
    const request = this.#take(message);
    if (request === undefined) {
      refuseUpgrade(socket, 404, NO_TOKEN);
      return;
    }
    const wire = WIRES.find(({ matches }) => matches(headers));
    if (wire === undefined) {
      const text = `unable to upgrade: no server for ${JSON.stringify(headers.upgrade ?? "")}`;
      refuseUpgrade(socket, 400, text);
      return;
    }
    try {
      this.#requireRoom();
    } catch (error) {
      refuseUpgrade(socket, 503, messageOf(error));
      return;
    }
    this.#decided(socket);
    void this.#serve(wire, { request, headers, socket, head });
  }

  async #serve(wire: Wire, client: Pick<Upgrade, "request" | "headers" | "socket" | "head">) {
    const { request, socket } = client;
    const object =
      request.kind === "portforward" ? request.podSandboxId : request.command.containerId;
    const abort = new AbortController();
    const { kind } = request;
    const session = { kind, object, since: performance.now(), abort, socket };
    this.#sessions.add(session);
    await withoutRequest({ streaming: kind, object }, async () => {
      log().debug("client connected");
      try {
        await wire.serve({
          ...client,
          backend: this.backend,
          idleTimeoutMs: this.options.idleTimeoutMs,
          creationTimeoutMs: this.options.creationTimeoutMs,
          signal: abort.signal,
        });
      } catch (error) {
        log().error({ err: error }, "streaming session failed");
        socket.destroy();
      } finally {
        this.#sessions.delete(session);
        const seconds = Math.round((performance.now() - session.since) / 1000);
        log().info({ seconds }, "client disconnected");
      }
    });
  }
}

/** What may follow an HTTP request on its connection. */
interface Wire {
  matches(headers: IncomingHttpHeaders): boolean;
  /** Answers the request and resolves when the connection is closed. */
  serve(upgrade: Upgrade): Promise<void>;
}

const WIRES: readonly Wire[] = [
  { matches: ({ upgrade = "" }) => isSpdy(upgrade), serve: serveSpdy },
  { matches: ({ upgrade = "" }) => isWebSocket(upgrade), serve: serveWebSocket },
];

const PLAIN_METHODS = new Set(["GET", "POST"]);
const NOT_HTTP = "not HTTP";
const NO_TOKEN = "unknown, used or expired token";

/** The parser's complaints: a header block that is too large, or no HTTP at all. */
function refuseMalformed(error: Error & { code?: string }, socket: Duplex): void {
  log().info({ error: error.message }, "streaming: malformed request");
  const tooLarge = error.code === "HPE_HEADER_OVERFLOW";
  refuseUpgrade(socket, tooLarge ? 431 : 400, tooLarge ? "the headers are too large" : NOT_HTTP);
}

/** Method and token of a request line (RFC 9112, 3), "" for what is none; the parser looks closer. */
function requestLine(head: Buffer): [method: string, token: string] {
  const end = head.indexOf("\r\n");
  const line = head.toString("latin1", 0, end < 0 ? head.length : end);
  const [, method = "", target = ""] = /^([A-Z]{1,20}) (\S+) HTTP\/1\.\d$/.exec(line) ?? [];
  return [method, PATH.exec(target)?.[2] ?? ""];
}

function tlsOptions({ cert, key, clientCa }: TlsMaterial): TlsOptions {
  return {
    cert,
    key,
    ...(clientCa !== undefined && { ca: clientCa, requestCert: true, rejectUnauthorized: true }),
    minVersion: "TLSv1.2",
    ALPNProtocols: ["http/1.1"],
    allowHalfOpen: true,
  };
}

/** Clients connect from this machine: to a server on all addresses, by loopback. */
function hostFor(address: string): string {
  if (address === "0.0.0.0") return "127.0.0.1";
  if (address === "::") return "[::1]";
  return isIPv6(address) ? `[${address}]` : address;
}
