import { lstatSync } from "node:fs";
import { connectCri } from "./cri-client.ts";

/**
 * A daemon's question to itself: does its Version answer at the socket, as the kubelet would see it?
 * All questions go over one connection: each new one costs 0.7 KB that Bun's HTTP/2 never gives back.
 *
 * @returns asks; it rejects when there is no answer within `deadlineMs`, or no socket any more.
 */
export function openSelfCheck(socket: string): (deadlineMs: number) => Promise<void> {
  const { runtime } = connectCri(socket);
  return async (deadlineMs) => {
    if (!lstatSync(socket).isSocket()) throw new Error(`${socket} is no socket any more`);
    await runtime.version({}, { timeoutMs: deadlineMs });
  };
}
