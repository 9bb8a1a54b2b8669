/**
 * Keeps what the daemon has in memory close to what it uses. The engine collects when its heap has grown by
 * a part, and gives memory back when it is not in use for long: a burst of large answers and of clients that
 * mean harm would be kept twice and three times until then.
 */
import { edenGC } from "bun:jsc";
import { readFileSync } from "node:fs";
import { libc } from "../linux/libc.ts";

const MIB = 1024 * 1024;
/** Less is nobody's concern. From here on what is young is collected, so that its memory is used again. */
const YOUNG_BYTES = 64 * MIB;
/** From here on everything is collected, and what is free given back: that takes ten times as long. */
const ALL_BYTES = 88 * MIB;
/** Over what the last collection left: a node with a thousand containers needs more than others. */
const [YOUNG_GROWTH_BYTES, ALL_GROWTH_BYTES] = [4 * MIB, 16 * MIB];
/** Collecting takes these parts of the time at most. */
const [YOUNG_DUTY, ALL_DUTY] = [16, 8];
const EVERY_MS = 50;
const PAGE_BYTES = libc({ getpagesize: { args: [], returns: "i32" } }).getpagesize();

export interface Memory {
  anonymousBytes(): number;
  collectYoung(): void;
  /** Also gives back what is free. */
  collectAll(): void;
  nowMs(): number;
}

/** When to collect. */
export class MemoryWatch {
  readonly #memory: Memory;
  /** What was left after everything was collected, and the least since anything was. */
  #used = 0;
  #least = 0;
  #notBeforeMs = 0;

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  /** To be called again and again; cheap where there is nothing to do. */
  look(): void {
    if (this.#memory.nowMs() < this.#notBeforeMs) return;
    const bytes = this.#memory.anonymousBytes();
    this.#least = Math.min(this.#least, bytes);
    if (bytes >= Math.max(ALL_BYTES, this.#used + ALL_GROWTH_BYTES)) {
      this.#timed(this.#memory.collectAll, ALL_DUTY);
      this.#used = this.#least;
    } else if (bytes >= Math.max(YOUNG_BYTES, this.#least + YOUNG_GROWTH_BYTES)) {
      this.#timed(this.#memory.collectYoung, YOUNG_DUTY);
    }
  }

  #timed(collect: () => void, duty: number): void {
    const startMs = this.#memory.nowMs();
    collect();
    this.#least = this.#memory.anonymousBytes();
    const endMs = this.#memory.nowMs();
    this.#notBeforeMs = endMs + (endMs - startMs) * duty;
  }
}

/** Watches this process; returns what ends it. */
export function keepMemoryLow(): () => void {
  const watch = new MemoryWatch({
    anonymousBytes() {
      const [, resident = 0, shared = 0] = readFileSync("/proc/self/statm", "latin1")
        .split(" ")
        .map(Number);
      return (resident - shared) * PAGE_BYTES;
    },
    collectYoung: edenGC,
    collectAll: () => Bun.gc(true),
    nowMs: () => performance.now(),
  });
  const timer = setInterval(() => watch.look(), EVERY_MS).unref();
  return () => clearInterval(timer);
}
