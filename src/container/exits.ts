/** Who waits for which container's end. */
export class Exits {
  readonly #waiters = new Map<string, Set<() => void>>();

  /** Resolves at the container's exit (true) or after `deadlineMs` (false). */
  wait(id: string, deadlineMs: number): Promise<boolean> {
    return new Promise((resolve) => {
      const waiters = this.#waiters.get(id) ?? new Set();
      this.#waiters.set(id, waiters);
      const end = (exited: boolean) => {
        clearTimeout(timer);
        waiters.delete(onExit);
        if (waiters.size === 0) this.#waiters.delete(id);
        resolve(exited);
      };
      const onExit = () => end(true);
      const timer = setTimeout(() => end(false), Math.max(0, deadlineMs));
      waiters.add(onExit);
    });
  }

  /** Wakes all who wait for this container. */
  notify(id: string): void {
    for (const wake of [...(this.#waiters.get(id) ?? [])]) wake();
  }
}
