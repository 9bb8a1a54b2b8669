import { closeSync, constants, openSync } from "node:fs";
import { CribError, messageOf } from "../error.ts";
import { withDeadline } from "./deadline.ts";
import { encodeStream } from "./protocol.ts";
import { StreamSocket } from "./stream-socket.ts";

/** A connection that carries nothing but bytes, both ways, and the number by which requests name it. */
export interface Stream {
  number: number;
  socket: StreamSocket;
}

/** Another daemon's could still be there: not from 1. */
let lastNumber = crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;

/** The pod's directory, and its monitor's socket: the directory's own path may be longer than a socket's. */
export function openDirectory(path: string): { fd: number; socketPath: string } {
  try {
    const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
    return { fd, socketPath: `/proc/self/fd/${fd}/monitor.sock` };
  } catch (error) {
    const text = `pod monitor in ${path}: ${messageOf(error)}`;
    throw new CribError("Unavailable", text, { cause: error });
  }
}

/**
 * Connects a stream. The request that names it goes to the monitor after this: then it is there.
 * Half-open: `end()` ends what we send, not what we read. Its errors are also its end: nobody need listen.
 *
 * @throws CribError Unavailable
 */
export async function openStream(path: string, deadlineMs: number): Promise<Stream> {
  const directory = openDirectory(path);
  lastNumber = (lastNumber % 0xffffffff) + 1;
  const number = lastNumber;
  const connecting = StreamSocket.connect({ unix: directory.socketPath });
  try {
    const socket = await withDeadline(connecting, deadlineMs, "pod monitor: stream");
    // It fits, so it is on its way.
    socket.write(encodeStream(number));
    return { number, socket };
  } catch (error) {
    // Should it come after all, nobody waits for it any more.
    void connecting.then((socket) => socket.destroy()).catch(() => undefined);
    const text = `pod monitor in ${path}: ${messageOf(error)}`;
    throw new CribError("Unavailable", text, { cause: error });
  } finally {
    closeSync(directory.fd);
  }
}
