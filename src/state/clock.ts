import { realtimeNs } from "../linux/clock.ts";

let last = 0n;

/** Nanoseconds since 1970, as CRI's timestamps are; strictly rising, so that creation order shows. */
export function nowNs(): bigint {
  const now = realtimeNs();
  last = now > last ? now : last + 1n;
  return last;
}
