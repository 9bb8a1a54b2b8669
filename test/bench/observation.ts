import * as v from "valibot";

/** What observer.ts tells of a daemon: the most memory that it and its children had. */
export const MemoryObservation = v.object({ daemonKib: v.number(), childrenKib: v.number() });
export type MemoryObservation = v.InferOutput<typeof MemoryObservation>;

/** Its answers to Version, and how late the observer itself was. */
export const VersionObservation = v.object({
  lateMs: v.object({ p99: v.number() }),
  versionMs: v.object({
    calls: v.number(),
    failed: v.number(),
    p99: v.number(),
    longest: v.number(),
  }),
});
export type VersionObservation = v.InferOutput<typeof VersionObservation>;

export type Observation = MemoryObservation & VersionObservation;
