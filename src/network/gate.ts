/**
 * Order between CNI operations: one at a time for each pod, any number for different pods, and garbage
 * collection alone. Source: CNI specification 1.1.0, section 3 "Lifecycle & Ordering".
 */
export class Gate {
  readonly #byKey = new Map<string, Promise<void>>();
  readonly #running = new Set<Promise<void>>();
  #alone: Promise<void> = Promise.resolve();

  /** Runs after the operations of the same key and after a lone one that was asked for before. */
  shared<T>(key: string, operation: () => Promise<T>): Promise<T> {
    const before = [this.#alone, this.#byKey.get(key)];
    const result = Promise.all(before).then(operation);
    const done = settled(result);
    this.#byKey.set(key, done);
    this.#running.add(done);
    void done.then(() => {
      this.#running.delete(done);
      if (this.#byKey.get(key) === done) this.#byKey.delete(key);
    });
    return result;
  }

  /** Runs when all that was asked for before has ended; what is asked for later waits. */
  alone<T>(operation: () => Promise<T>): Promise<T> {
    const result = Promise.all([this.#alone, ...this.#running]).then(operation);
    this.#alone = settled(result);
    return result;
  }
}

function settled(promise: Promise<unknown>): Promise<void> {
  return promise.then(
    () => undefined,
    () => undefined,
  );
}
