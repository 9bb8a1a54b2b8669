import * as v from "valibot";

/** What `observer.ts` has seen of a daemon, as it prints it. */
export const Observation = v.object({
  /** The most anonymous memory (RssAnon) of the daemon, and of all of its children together. */
  daemonKib: v.number(),
  childrenKib: v.number(),
  /** How late the observer itself was: what the machine's other work adds to all times. */
  lateMs: v.object({ p99: v.number() }),
  /** How long Version took, whether or not those before it had been answered. */
  versionMs: v.object({
    calls: v.number(),
    failed: v.number(),
    p99: v.number(),
    longest: v.number(),
  }),
});
export type Observation = v.InferOutput<typeof Observation>;
