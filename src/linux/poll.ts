/** Waiting for a descriptor in a process that does everything synchronously. */
import { buffer, libc } from "./libc.ts";

const c = libc({ poll: { args: ["ptr", "u64", "i32"], returns: "i32" } });

const POLLIN = 1;
/** struct pollfd of poll(2). */
const entry = buffer(8);
const view = new DataView(entry.buffer);

/** Whether a read would return at once: with bytes, the end, or an error. Waits up to `timeoutMs`. */
export function waitReadable(fd: number, timeoutMs: number): boolean {
  view.setInt32(0, fd, true);
  view.setInt16(4, POLLIN, true);
  view.setInt16(6, 0, true);
  // Interrupted, it is as if something had come: the read waits.
  return c.poll(entry, 1, timeoutMs) !== 0;
}
