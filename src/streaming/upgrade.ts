import type { IncomingHttpHeaders } from "node:http";
import type { Duplex } from "node:stream";
import type { CommandRequest, StreamingBackend } from "./channels.ts";

/** What a client may stream, as it asked for it by RPC; what the URL's query says never counts. */
export type StreamingRequest =
  | { kind: "exec" | "attach"; command: CommandRequest }
  | { kind: "portforward"; podSandboxId: string; ports: readonly number[] };

/** A request to leave HTTP whose token was good, before it is answered. */
export interface Upgrade {
  readonly request: StreamingRequest;
  readonly headers: IncomingHttpHeaders;
  readonly socket: Duplex;
  /** What came after the HTTP request. */
  readonly head: Buffer;
  readonly backend: StreamingBackend;
  readonly idleTimeoutMs: number;
  /** How long the client may take to open its streams. */
  readonly creationTimeoutMs: number;
  /** The daemon ends; the reason is an Error whose message is for the client. */
  readonly signal: AbortSignal;
}

const REASONS: Record<number, string> = {
  400: "Bad Request",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  426: "Upgrade Required",
  431: "Request Header Fields Too Large",
  503: "Service Unavailable",
};

const UNREAD_LIMIT_BYTES = 64 * 1024;

/** Answers with an error in plain text and closes the connection. */
export function refuseUpgrade(
  socket: Duplex,
  status: number,
  message: string,
  headers: Record<string, string> = {},
): void {
  const body = `${message}\n`;
  const fields = {
    ...headers,
    "Content-Type": "text/plain; charset=utf-8",
    "Content-Length": String(Buffer.byteLength(body)),
    Connection: "close",
  };
  socket.end(`${head(status, REASONS[status] ?? "Error", fields)}${body}`);
  // Unread bytes would make the kernel reset the connection, and the client lose the answer. Who says more
  // than that does not want it.
  let unread = 0;
  socket.on("data", (chunk: Buffer) => {
    unread += chunk.length;
    if (unread > UNREAD_LIMIT_BYTES) socket.destroy();
  });
  socket.resume();
  const timer = setTimeout(() => socket.destroy(), 5_000);
  socket.once("end", () => socket.destroy());
  socket.once("close", () => clearTimeout(timer));
}

/** Leaves HTTP: what follows is in the protocol that `Upgrade` names. */
export function acceptUpgrade(socket: Duplex, headers: Record<string, string>): void {
  socket.write(head(101, "Switching Protocols", { Connection: "Upgrade", ...headers }));
}

function head(status: number, reason: string, headers: Record<string, string>): string {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${oneLine(value)}\r\n`);
  return `HTTP/1.1 ${status} ${reason}\r\n${lines.join("")}\r\n`;
}

/** What the client sent may be in it. */
function oneLine(value: string): string {
  return value.replaceAll(/[^\x20-\x7e]/g, "?");
}
