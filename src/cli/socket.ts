import { chmodSync, lstatSync, mkdirSync, unlinkSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { dirname } from "node:path";
import { CribError } from "../error.ts";

/**
 * Listens on a unix socket, mode 0660: root and its group, as containerd's.
 *
 * @throws CribError FailedPrecondition when another daemon answers there, or something else is there.
 */
export async function listen(path: string, accept: (connection: Socket) => void): Promise<Server> {
  await takeSocket(path);
  const server = createServer(accept);
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    const umask = process.umask(0o117);
    server.listen(path, () => resolve());
    process.umask(umask);
  });
  chmodSync(path, 0o660);
  return server;
}

/** Makes way for our socket: a dead daemon's is removed, a living one's is an error. */
async function takeSocket(path: string): Promise<void> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return;
  if (!stat.isSocket()) {
    throw new CribError("FailedPrecondition", `crib.socket: ${path} is there and is no socket`);
  }
  if (await answers(path)) {
    throw new CribError(
      "FailedPrecondition",
      `crib.socket: ${path} is in use: another daemon answers on it`,
    );
  }
  unlinkSync(path);
}

/** Whether anybody listens on a unix socket. */
export function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const end = (alive: boolean) => {
      socket.destroy();
      resolve(alive);
    };
    socket.once("connect", () => end(true));
    socket.once("error", () => end(false));
    socket.setTimeout(1000, () => end(true));
  });
}
