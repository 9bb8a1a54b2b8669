import { buffer, check, libc } from "./libc.ts";

const c = libc({ clock_gettime: { args: ["i32", "ptr"], returns: "i32" } });

const CLOCK_REALTIME = 0;
const CLOCK_MONOTONIC = 1;

const time = buffer(16);
const view = new DataView(time.buffer);

/** Nanoseconds of one of the kernel's clocks: clock_gettime(2). */
function read(clock: number): bigint {
  check(c.clock_gettime(clock, time), "clock_gettime");
  return view.getBigInt64(0, true) * 1_000_000_000n + view.getBigInt64(8, true);
}

/** Nanoseconds since 1970. Bun's own clock has milliseconds. */
export function realtimeNs(): bigint {
  return read(CLOCK_REALTIME);
}

/** Nanoseconds of CLOCK_MONOTONIC, which Bun's own clocks are not. */
export function monotonicNs(): bigint {
  return read(CLOCK_MONOTONIC);
}
