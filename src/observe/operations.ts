/**
 * One queue per object: a change to a pod, a container or an image runs alone, in the order of arrival,
 * and is visible (what, stage, age) while it waits or runs. Reads never enter a queue.
 */
import { log, withLog } from "./log.ts";

/** The handle that a running operation uses to say where it is. */
export interface Operation {
  stage(name: string): void;
}

/** One line of `crib status`. */
export interface OperationView {
  object: string;
  name: string;
  stage: string;
  ageMs: number;
}

interface Entry {
  object: string;
  name: string;
  stage: string;
  since: number;
}

/** Keeps an entry's stage, and logs at the end how long each took: where a slow operation was slow. */
class StageClock implements Operation {
  readonly #entry: Entry;
  readonly #stagesMs: Record<string, number> = {};
  #since = 0;

  constructor(entry: Entry) {
    this.#entry = entry;
  }

  stage(name: string): void {
    this.#close();
    this.#entry.stage = name;
  }

  end(): void {
    this.#close();
    const { object, name } = this.#entry;
    log().debug({ object, operation: name, stagesMs: this.#stagesMs }, "operation ended");
  }

  #close(): void {
    const now = performance.now();
    const stage = this.#entry.stage;
    const elapsedMs = now - (this.#since || this.#entry.since);
    this.#stagesMs[stage] = Math.round(((this.#stagesMs[stage] ?? 0) + elapsedMs) * 10) / 10;
    this.#since = now;
  }
}

export class Operations {
  readonly #tails = new Map<string, Promise<unknown>>();
  readonly #entries = new Set<Entry>();

  /** Runs `body` after every earlier operation on `object` has ended, whatever their outcome. */
  run<T>(object: string, name: string, body: (operation: Operation) => Promise<T>): Promise<T> {
    const entry: Entry = { object, name, stage: "queued", since: performance.now() };
    this.#entries.add(entry);
    const start = async () => {
      const clock = new StageClock(entry);
      clock.stage("running");
      try {
        return await withLog({ operation: name, object }, () => body(clock));
      } finally {
        clock.end();
        this.#entries.delete(entry);
      }
    };
    const before = this.#tails.get(object);
    const result = before === undefined ? start() : before.then(start, start);
    this.#tails.set(object, result);
    const settle = () => {
      if (this.#tails.get(object) === result) this.#tails.delete(object);
    };
    result.then(settle, settle);
    return result;
  }

  /** What waits or runs now, the oldest first. */
  list(): OperationView[] {
    const now = performance.now();
    return [...this.#entries]
      .map(({ object, name, stage, since }) => ({
        object,
        name,
        stage,
        ageMs: Math.round(now - since),
      }))
      .sort((a, b) => b.ageMs - a.ageMs);
  }

  /** Resolves when no operation is left, or when `deadlineMs` has passed (then false). */
  async idle(deadlineMs: number): Promise<boolean> {
    const end = performance.now() + deadlineMs;
    while (this.#entries.size > 0) {
      if (performance.now() >= end) return false;
      await Bun.sleep(10);
    }
    return true;
  }
}
