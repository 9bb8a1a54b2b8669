import { CribError } from "../error.ts";

/** One creation as its caller sees it. */
export interface Creation {
  /** What is being made, for messages: `pod default/web (uid …, attempt 0)`. */
  what: string;
  /** The name that must be unique: all parts of the metadata. */
  key: string;
  /** The whole request in a canonical form; called only when two requests meet. */
  fingerprint: () => string;
  /** The caller's own life: aborted when its connection or deadline ends. */
  signal: AbortSignal;
  /** An object of this name that is there already. */
  existing: () => { id: string; unclaimed: boolean; fingerprint: string } | undefined;
  make: () => Promise<string>;
  /** Takes away an unclaimed object whose creator has changed its mind. */
  discard: (id: string) => Promise<void>;
  /** Records whether anybody got the answer. */
  setUnclaimed: (id: string, unclaimed: boolean) => void;
}

interface Job {
  fingerprint: () => string;
  /** Callers that still wait for the answer. */
  waiting: number;
  result: Promise<string>;
}

/**
 * Creation is a job, not a call: a client that gave up and asks again joins the running job, or gets
 * what it has made meanwhile. Only a name whose creator got its answer is "already there".
 */
export class Creations {
  readonly #jobs = new Map<string, Job>();

  /**
   * @returns the id of what was made, by this call or by the one it joined.
   * @throws CribError AlreadyExists, or whatever `make` throws.
   */
  async run(creation: Creation): Promise<string> {
    for (;;) {
      const job = this.#jobs.get(creation.key);
      if (job !== undefined) {
        if (job.fingerprint() === creation.fingerprint()) return this.#wait(job, creation);
        // The same name with another content: let the earlier one end, then decide.
        await job.result.catch(() => undefined);
        continue;
      }
      const existing = creation.existing();
      if (existing === undefined) return this.#wait(this.#start(creation), creation);
      if (!existing.unclaimed) {
        throw new CribError("AlreadyExists", `${creation.what} is there already: ${existing.id}`);
      }
      if (existing.fingerprint === creation.fingerprint()) {
        creation.setUnclaimed(existing.id, creation.signal.aborted);
        return existing.id;
      }
      await creation.discard(existing.id);
    }
  }

  #start(creation: Creation): Job {
    const job: Job = {
      fingerprint: creation.fingerprint,
      waiting: 0,
      result: creation
        .make()
        .then((id) => {
          if (job.waiting === 0) creation.setUnclaimed(id, true);
          return id;
        })
        .finally(() => this.#jobs.delete(creation.key)),
    };
    this.#jobs.set(creation.key, job);
    return job;
  }

  async #wait(job: Job, { signal }: Creation): Promise<string> {
    const leave = () => {
      job.waiting -= 1;
    };
    if (!signal.aborted) {
      job.waiting += 1;
      signal.addEventListener("abort", leave, { once: true });
    }
    try {
      return await job.result;
    } finally {
      signal.removeEventListener("abort", leave);
    }
  }
}
