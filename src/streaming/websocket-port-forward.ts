import { finished } from "node:stream";
import { Backlog } from "./backlog.ts";
import type { ForwardedConnection } from "./channels.ts";
import { ClientStream } from "./client-stream.ts";
import type { WebSocketConnection } from "./websocket.ts";
import { type ChannelEncoding, WebSocketChannels } from "./websocket-channels.ts";
import { CloseCode, WebSocketError } from "./websocket-frames.ts";

/** What carries SPDY in a WebSocket: after the prefix comes the name of the protocol within. */
export const TUNNEL_PROTOCOL = "SPDY/3.1+portforward.k8s.io";

/** Port-forwarding by channels, by the name that the client offers; "" for one that offers none. */
export const FORWARD_PROTOCOLS: ReadonlyMap<string, ChannelEncoding> = new Map([
  ["v4.channel.k8s.io", { base64: false, halfClose: false }],
  ["v4.base64.channel.k8s.io", { base64: true, halfClose: false }],
  ["", { base64: false, halfClose: false }],
]);

const EMPTY = Buffer.alloc(0);
/** Each port has two channels, whose numbers have to fit into a byte, or an ASCII character from "0" on. */
const MAX_PORTS = { binary: 128, base64: 40 } as const;

/** Why these ports cannot be forwarded by channels; undefined when they can. */
export function refusePorts({ base64 }: ChannelEncoding, ports: readonly number[]) {
  const most = MAX_PORTS[base64 ? "base64" : "binary"];
  if (ports.length === 0)
    return "the request names no port: SPDY/3.1+portforward.k8s.io needs none";
  return ports.length > most ? `${ports.length} ports, at most ${most} are possible` : undefined;
}

/**
 * A byte stream in the binary messages of a WebSocket, whose boundaries mean nothing. Begins to read.
 * Ending or destroying it closes the connection.
 */
export function tunnel(connection: WebSocketConnection, head: Buffer): ClientStream {
  const backlog: Backlog = new Backlog(() => connection.pause(backlog.full));
  const stream = new ClientStream(
    {
      send: (_, chunk, callback) => connection.send("binary", EMPTY, chunk, callback),
      sendFin: () => connection.close(CloseCode.normal),
      ended: () => {
        connection.close(CloseCode.normal);
        connection.linger();
      },
      queued: (stream, changeBytes) => backlog.queued(stream, changeBytes),
    },
    0,
  );
  connection.start(head, {
    message: ({ bytes, text }) => {
      if (text) throw new WebSocketError(CloseCode.unsupportedData, "text in a tunnel");
      stream.receive(bytes, false);
    },
    farewell: () => stream.receive(EMPTY, true),
  });
  void connection.closed.then(() => stream.vanish());
  return stream;
}

/**
 * One connection for each port that the client's request named, on two channels: data in both
 * directions, then errors. The connection closes when all have ended: a channel alone cannot.
 */
export function channelConnections(
  connection: WebSocketConnection,
  head: Buffer,
  encoding: ChannelEncoding,
  ports: readonly number[],
): ForwardedConnection[] {
  const channels = new WebSocketChannels(connection, encoding);
  let open = ports.length;
  const connections = ports.map((port, index): ForwardedConnection => {
    const [dataChannel, errorChannel] = [2 * index, 2 * index + 1];
    const data = channels.open(dataChannel);
    const name = Buffer.from([port & 255, port >>> 8]);
    channels.say(dataChannel, name);
    channels.say(errorChannel, name);
    finished(data, { readable: false }, () => {
      open -= 1;
      if (open === 0) connection.close(CloseCode.normal);
    });
    const fail = (message: string) =>
      channels.say(errorChannel, Buffer.from(message), () => data.destroy());
    return {
      port,
      data,
      fail,
      reset: (message) => {
        data.resume();
        data.flushed(() => fail(message));
      },
    };
  });
  connection.start(head, channels);
  return connections;
}
