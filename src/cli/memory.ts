/**
 * Keeps what the daemon has in memory close to what it uses. The engine collects when its heap has grown by
 * a part, and gives memory back when it is not in use for long: a burst of large answers and of clients that
 * mean harm would be kept twice and three times until then.
 */
import { readFileSync } from "node:fs";
import { libc } from "../linux/libc.ts";

const MIB = 1024 * 1024;
/** Less is nobody's concern. */
const LIMIT_BYTES = 96 * MIB;
/** Over what was left after the last collection: a node with a thousand containers needs more than others. */
const GROWTH_BYTES = 16 * MIB;
/** Collecting takes this part of the time at most. */
const DUTY = 8;
const EVERY_MS = 50;
const PAGE_BYTES = libc({ getpagesize: { args: [], returns: "i32" } }).getpagesize();

export interface Memory {
  anonymousBytes(): number;
  /** Collects, and gives back what is free. */
  collect(): void;
  nowMs(): number;
}

/** When to collect. */
export class MemoryWatch {
  readonly #memory: Memory;
  #limitBytes = LIMIT_BYTES;
  #notBeforeMs = 0;

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  /** To be called again and again; cheap where there is nothing to do. */
  look(): void {
    const { anonymousBytes, collect, nowMs } = this.#memory;
    const startMs = nowMs();
    if (startMs < this.#notBeforeMs || anonymousBytes() < this.#limitBytes) return;
    collect();
    const endMs = nowMs();
    this.#notBeforeMs = endMs + (endMs - startMs) * DUTY;
    this.#limitBytes = Math.max(LIMIT_BYTES, anonymousBytes() + GROWTH_BYTES);
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
    collect: () => Bun.gc(true),
    nowMs: () => performance.now(),
  });
  const timer = setInterval(() => watch.look(), EVERY_MS).unref();
  return () => clearInterval(timer);
}
