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
    const before = read.length;
    // No more is copied than a block may have: chunks are of half a megabyte.
    const part = chunk.subarray(0, limitBytes + 1 - before);
    read = before === 0 ? part : Buffer.concat([read, part]);
    const at = read.indexOf(END, Math.max(0, before - END.length + 1));
    if (at < 0 && read.length <= limitBytes) return;
    const length = at < 0 ? read.length : at + END.length;
    end(read.subarray(0, length), chunk.subarray(length - before));
  };
  const onEnd = () => end(read, Buffer.alloc(0));
  socket.on("data", onData).on("end", onEnd);
}
