/**
 * Work that several may want at once and that is done once: a pull of an image, a download of a layer.
 * It goes on while anyone wants it, and is aborted when the last one has left.
 */
import { canceled, throwIfAborted } from "./http.ts";

interface Job<M, T> {
  members: Set<M>;
  controller: AbortController;
  result: Promise<T>;
}

export class SharedWork<M, T> {
  readonly #jobs = new Map<string, Job<M, T>>();

  /**
   * Joins the work that runs for `key`, or starts it. `member` must be unique; `start` may read the
   * live set of members at any time. Rejects at once when `signal` is aborted.
   */
  async join(
    key: string,
    member: M,
    signal: AbortSignal,
    start: (signal: AbortSignal, members: ReadonlySet<M>) => Promise<T>,
  ): Promise<T> {
    throwIfAborted(signal);
    const job = this.#jobs.get(key) ?? this.#start(key, start);
    job.members.add(member);
    let abort = () => {};
    const aborted = new Promise<never>((_, reject) => {
      abort = () => {
        job.members.delete(member);
        if (job.members.size > 0) {
          reject(canceled(signal));
          return;
        }
        // The last one waits for the clean-up: when its pull has failed, nothing is left.
        this.#forget(key, job);
        job.controller.abort(canceled(signal));
        job.result.then(
          () => reject(canceled(signal)),
          () => reject(canceled(signal)),
        );
      };
    });
    aborted.catch(() => {});
    signal.addEventListener("abort", abort, { once: true });
    try {
      return await Promise.race([aborted, job.result]);
    } catch (error) {
      throwIfAborted(signal);
      throw error;
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  /** Whether work runs for `key`. */
  has(key: string): boolean {
    return this.#jobs.has(key);
  }

  #start(
    key: string,
    start: (signal: AbortSignal, members: ReadonlySet<M>) => Promise<T>,
  ): Job<M, T> {
    const members = new Set<M>();
    const controller = new AbortController();
    // Deferred, so that the starter is a member before the work looks.
    const result = Promise.resolve().then(() => start(controller.signal, members));
    const job: Job<M, T> = { members, controller, result };
    this.#jobs.set(key, job);
    const forget = () => this.#forget(key, job);
    result.then(forget, forget);
    return job;
  }

  #forget(key: string, job: Job<M, T>): void {
    if (this.#jobs.get(key) === job) this.#jobs.delete(key);
  }
}
