import { finished, type Writable } from "node:stream";
import type { CommandChannels, CommandRequest } from "./channels.ts";
import { readSizes } from "./resize.ts";
import { statusMessage } from "./status.ts";
import type { WebSocketConnection } from "./websocket.ts";
import { type ChannelEncoding, WebSocketChannels } from "./websocket-channels.ts";
import { CloseCode } from "./websocket-frames.ts";

/** A subprotocol for exec and attach. */
export interface CommandProtocol extends ChannelEncoding {
  /** Whether the end is told in JSON, see status.ts. */
  jsonStatus: boolean;
}

const legacy = { base64: false, halfClose: false, jsonStatus: false };

/** By the name that the client offers; "" for one that offers none. */
export const COMMAND_PROTOCOLS: ReadonlyMap<string, CommandProtocol> = new Map([
  ["v5.channel.k8s.io", { base64: false, halfClose: true, jsonStatus: true }],
  ["v4.channel.k8s.io", { base64: false, halfClose: false, jsonStatus: true }],
  ["v4.base64.channel.k8s.io", { base64: true, halfClose: false, jsonStatus: true }],
  ["channel.k8s.io", legacy],
  ["base64.channel.k8s.io", { ...legacy, base64: true }],
  ["", legacy],
]);

/** The file descriptors of a process, then what is about it. */
const Channel = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4 } as const;
const EMPTY = Buffer.alloc(0);

/** A client's channels of an exec or attach over WebSocket. Begins to read. */
export function commandChannels(
  connection: WebSocketConnection,
  head: Buffer,
  request: Omit<CommandRequest, "containerId" | "command">,
  protocol: CommandProtocol,
): CommandChannels {
  const channels = new WebSocketChannels(connection, protocol);
  const open = (name: "stdin" | "stdout" | "stderr") =>
    request[name] ? channels.open(Channel[name]) : undefined;
  const [stdin, stdout, stderr] = [open("stdin"), open("stdout"), open("stderr")];
  const output = [stdout, stderr].filter((it) => it !== undefined);
  // What clients send on channels for output is dropped.
  for (const stream of output) stream.resume();
  const sizes = request.tty ? channels.open(Channel.resize) : undefined;
  // Tells the client that the connection stands, on the lowest channel that it reads.
  channels.say(output[0]?.id ?? Channel.error, EMPTY);
  connection.start(head, channels);
  return {
    stdin,
    stdout,
    stderr,
    onResize: (listener) => {
      if (sizes !== undefined) readSizes(sizes, listener);
    },
    finish: async (outcome) => {
      await Promise.all(output.map(ended));
      const message = statusMessage(outcome, protocol.jsonStatus);
      if (message !== "") channels.say(Channel.error, Buffer.from(message));
      connection.close(CloseCode.normal);
    },
    closed: connection.over,
  };
}

/** Resolves when all that was written is on its way, or the client is gone. */
function ended(stream: Writable): Promise<void> {
  stream.end();
  return new Promise((resolve) => {
    finished(stream, { readable: false }, () => resolve());
  });
}
