import { closeSync, constants, openSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { CribError, messageOf } from "../error.ts";
import { withDeadline } from "./deadline.ts";
import { encodeStream } from "./protocol.ts";

/** A connection that carries nothing but bytes, both ways, and the number by which requests name it. */
export interface Stream {
  number: number;
  socket: Socket;
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
  const socket = connect({ path: directory.socketPath, allowHalfOpen: true });
  lastNumber = (lastNumber % 0xffffffff) + 1;
  const number = lastNumber;
  const connected = new Promise<void>((resolve, reject) => {
    socket.once("error", reject);
    socket.once("connect", () => socket.write(encodeStream(number), () => resolve()));
  });
  try {
    await withDeadline(connected, deadlineMs, "pod monitor: stream");
    socket.on("error", () => undefined);
    return { number, socket };
  } catch (error) {
    socket.on("error", () => undefined);
    socket.destroy();
    const text = `pod monitor in ${path}: ${messageOf(error)}`;
    throw new CribError("Unavailable", text, { cause: error });
  } finally {
    closeSync(directory.fd);
  }
}
