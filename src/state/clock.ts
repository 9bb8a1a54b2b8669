let last = 0n;

/** Nanoseconds since 1970, as CRI's timestamps are; strictly rising, so that creation order shows. */
export function nowNs(): bigint {
  const now = BigInt(Date.now()) * 1_000_000n;
  last = now > last ? now : last + 1n;
  return last;
}
