import type { Socket } from "node:net";

const END = Buffer.from("\r\n\r\n");

/**
 * Reads a connection up to the end of an HTTP request's header block, and hands that over; what follows it
 * is to be read from the connection. Nothing is handed over before the block is whole, unless it is longer
 * than `limitBytes`, or the client says nothing more: whoever parses it says what is wrong with it.
 *
 * An HTTP parser of its own reads on: it takes a megabyte of small requests for 25,000 of them, at once.
 */
export function readRequestHead(
  socket: Socket,
  limitBytes: number,
  handOver: (head: Buffer) => void,
): void {
  let read: Buffer = Buffer.alloc(0);
  const end = (head: Buffer, rest: Buffer) => {
    socket.off("data", onData).off("end", onEnd).pause();
    if (rest.length > 0) socket.unshift(rest);
    handOver(head);
  };
  const onData = (chunk: Buffer) => {
    const searched = Math.max(0, read.length - END.length + 1);
    read = Buffer.concat([read, chunk]);
    const at = read.indexOf(END, searched);
    const length = at < 0 ? limitBytes + 1 : at + END.length;
    if (at >= 0 || read.length > limitBytes) end(read.subarray(0, length), read.subarray(length));
  };
  const onEnd = () => end(read, Buffer.alloc(0));
  socket.on("data", onData).on("end", onEnd);
}
