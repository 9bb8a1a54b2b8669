import type { Duplex } from "node:stream";
import { log } from "../observe/log.ts";
import type { CommandRequest, ForwardedConnection } from "./channels.ts";
import { runCommand } from "./command.ts";
import { Forwarder, MAX_CONNECTIONS } from "./forward.ts";
import { negotiate } from "./negotiate.ts";
import { COMMAND_PROTOCOLS, SpdyCommand } from "./spdy-command.ts";
import { FORWARD_PROTOCOLS, SpdyPortForward } from "./spdy-port-forward.ts";
import { SpdySession } from "./spdy-session.ts";
import { acceptUpgrade, refuseUpgrade, type Upgrade } from "./upgrade.ts";

/** Error, stdin, stdout, stderr, resize. */
const MAX_COMMAND_STREAMS = 5;
/** Each forwarded connection has two, those that wait for their second stream one. */
const MAX_FORWARD_STREAMS = 3 * MAX_CONNECTIONS;

export function isSpdy(upgradeHeader: string): boolean {
  return upgradeHeader.toLowerCase().includes("spdy/3.1");
}

/** Serves a client over SPDY/3.1. Resolves when its connection is closed. */
export async function serveSpdy(upgrade: Upgrade): Promise<void> {
  const { request, socket, headers } = upgrade;
  const known = request.kind === "portforward" ? FORWARD_PROTOCOLS : COMMAND_PROTOCOLS;
  const offered = headers["x-stream-protocol-version"];
  const result = negotiate(Array.isArray(offered) ? offered.join(",") : offered, known);
  if ("status" in result) {
    refuseUpgrade(socket, result.status, result.message, result.headers);
    return;
  }
  acceptUpgrade(socket, {
    Upgrade: "SPDY/3.1",
    "X-Stream-Protocol-Version": result.protocol,
  });
  if (request.kind === "portforward") await forwardOverSpdy(upgrade, socket, upgrade.head);
  else await runOverSpdy(upgrade, request.command, result.protocol);
}

async function runOverSpdy(
  upgrade: Upgrade,
  request: CommandRequest,
  protocol: string,
): Promise<void> {
  const { backend, signal } = upgrade;
  const command = new SpdyCommand(request, protocol);
  const session = new SpdySession(upgrade.socket, {
    idleTimeoutMs: upgrade.idleTimeoutMs,
    maxStreams: MAX_COMMAND_STREAMS,
    refuse: (headers) => command.refuse(headers),
    opened: (stream) => command.opened(stream),
  });
  const late = setTimeout(() => {
    const error = `the client did not open ${command.tooLate().join(", ")} in time`;
    log().debug(error);
    void command.channels(session).finish({ error });
  }, upgrade.creationTimeoutMs);
  // Until there is a command that tells the client more.
  const end = () => session.finish();
  signal.addEventListener("abort", end);
  session.start(upgrade.head);
  const opened = await Promise.race([command.complete.then(() => true), session.over]);
  clearTimeout(late);
  signal.removeEventListener("abort", end);
  const isExec = upgrade.request.kind === "exec";
  if (opened === true) {
    await runCommand({
      channels: command.channels(session),
      start: () => (isExec ? backend.exec(request) : backend.attach(request)),
      reportExitCode: isExec,
      signal,
    });
  }
  await session.closed;
}

/**
 * Serves port-forwarding over SPDY on any transport. Resolves when it is closed.
 *
 * @param head Bytes of the transport that have been read already.
 */
export async function forwardOverSpdy(
  { request, backend, idleTimeoutMs, creationTimeoutMs, signal }: Upgrade,
  transport: Duplex,
  head: Buffer,
): Promise<void> {
  if (request.kind !== "portforward") throw new Error(`${request.kind} is no port-forward`);
  const forwarder = new Forwarder(backend, request.podSandboxId);
  const connected = (connection: ForwardedConnection) => void forwarder.forward(connection);
  const connections = new SpdyPortForward(creationTimeoutMs, connected, request.ports);
  const session = new SpdySession(transport, {
    idleTimeoutMs,
    maxStreams: MAX_FORWARD_STREAMS,
    refuse: (headers) => connections.refuse(headers),
    opened: (stream) => connections.opened(stream),
    blocked: (blocked) => forwarder.hold(blocked),
  });
  signal.addEventListener("abort", () => session.finish(), { once: true });
  session.start(head);
  await session.closed;
  connections.close();
}
