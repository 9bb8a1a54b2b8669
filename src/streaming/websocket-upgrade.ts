import { createHash } from "node:crypto";
import { messageOf } from "../error.ts";
import type { CommandRequest } from "./channels.ts";
import { runCommand } from "./command.ts";
import { Forwarder } from "./forward.ts";
import { forwardOverSpdy } from "./spdy.ts";
import { acceptUpgrade, refuseUpgrade, type Upgrade } from "./upgrade.ts";
import { WebSocketConnection } from "./websocket.ts";
import { COMMAND_PROTOCOLS, commandChannels } from "./websocket-command.ts";
import { CloseCode } from "./websocket-frames.ts";
import {
  channelConnections,
  FORWARD_PROTOCOLS,
  refusePorts,
  TUNNEL_PROTOCOL,
  tunnel,
} from "./websocket-port-forward.ts";

/** Appended to the client's key (RFC 6455 section 1.3). */
const KEY_SUFFIX = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const VERSION = "13";
const EMPTY = Buffer.alloc(0);

export function isWebSocket(upgradeHeader: string): boolean {
  return upgradeHeader.toLowerCase() === "websocket";
}

/** Serves a client over WebSocket. Resolves when its connection is closed. */
export async function serveWebSocket(upgrade: Upgrade): Promise<void> {
  const { request, socket, headers } = upgrade;
  const key = headers["sec-websocket-key"] ?? "";
  if (headers["sec-websocket-version"] !== VERSION) {
    const found = JSON.stringify(headers["sec-websocket-version"] ?? "");
    const accepted = { "Sec-WebSocket-Version": VERSION };
    refuseUpgrade(socket, 426, `Sec-WebSocket-Version is ${found}, not ${VERSION}`, accepted);
    return;
  }
  if (!/^[A-Za-z0-9+/]{22}==$/.test(key)) {
    refuseUpgrade(socket, 400, "Sec-WebSocket-Key is not 16 bytes in base64");
    return;
  }
  const known =
    request.kind === "portforward"
      ? [TUNNEL_PROTOCOL, ...FORWARD_PROTOCOLS.keys()]
      : [...COMMAND_PROTOCOLS.keys()];
  const protocol = choose(headers["sec-websocket-protocol"], known);
  if (protocol === undefined) {
    const names = known.filter((name) => name !== "").join(", ");
    const offered = JSON.stringify(headers["sec-websocket-protocol"]);
    refuseUpgrade(socket, 403, `Sec-WebSocket-Protocol: ${offered}: known are ${names}`);
    return;
  }
  const encoding = FORWARD_PROTOCOLS.get(protocol);
  if (request.kind === "portforward" && encoding !== undefined) {
    const refusal = refusePorts(encoding, request.ports);
    if (refusal !== undefined) {
      refuseUpgrade(socket, 400, `unable to forward ports by channels: ${refusal}`);
      return;
    }
  }
  acceptUpgrade(socket, {
    Upgrade: "websocket",
    "Sec-WebSocket-Accept": acceptKey(key),
    ...(protocol !== "" && { "Sec-WebSocket-Protocol": protocol }),
  });
  const connection = new WebSocketConnection(socket, upgrade.idleTimeoutMs);
  if (request.kind !== "portforward") {
    await runOverWebSocket(upgrade, connection, request.command, protocol);
  } else if (protocol === TUNNEL_PROTOCOL) {
    await forwardOverSpdy(upgrade, tunnel(connection, upgrade.head), EMPTY);
  } else {
    await forwardOverChannels(upgrade, connection, protocol);
  }
  await connection.closed;
}

async function runOverWebSocket(
  { request, head, backend, signal }: Upgrade,
  connection: WebSocketConnection,
  command: CommandRequest,
  protocol: string,
): Promise<void> {
  const details = COMMAND_PROTOCOLS.get(protocol);
  if (details === undefined) throw new Error(`no protocol ${protocol}`);
  const isExec = request.kind === "exec";
  await runCommand({
    channels: commandChannels(connection, head, command, details),
    start: () => (isExec ? backend.exec(command) : backend.attach(command)),
    reportExitCode: isExec,
    signal,
  });
}

async function forwardOverChannels(
  { request, head, backend, signal }: Upgrade,
  connection: WebSocketConnection,
  protocol: string,
): Promise<void> {
  const encoding = FORWARD_PROTOCOLS.get(protocol);
  if (encoding === undefined || request.kind !== "portforward") {
    throw new Error(`no protocol ${protocol} for ${request.kind}`);
  }
  const { podSandboxId, ports } = request;
  const forwarder = new Forwarder(backend, podSandboxId);
  connection.onBlocked = (blocked) => forwarder.hold(blocked);
  for (const it of channelConnections(connection, head, encoding, ports)) {
    void forwarder.forward(it);
  }
  const end = () => connection.close(CloseCode.goingAway, messageOf(signal.reason));
  signal.addEventListener("abort", end, { once: true });
  if (signal.aborted) end();
  await connection.over;
  signal.removeEventListener("abort", end);
}

/** Proves that the server has understood the client's key. */
export function acceptKey(key: string): string {
  return createHash("sha1").update(`${key}${KEY_SUFFIX}`).digest("base64");
}

/** The first of the client's protocols that is known; "" when it offers none. */
function choose(offered: string | undefined, known: readonly string[]): string | undefined {
  if (offered === undefined) return "";
  const names = offered.split(",").map((name) => name.trim());
  return names.find((name) => name !== "" && known.includes(name));
}
