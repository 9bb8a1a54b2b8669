import { expect, test } from "bun:test";
import { MemoryWatch } from "../../src/cli/memory.ts";

const MIB = 1024 * 1024;

/** A process that uses `used` MiB and has `garbage` beside; a collection of all of it takes 20 ms. */
class Process {
  used = 20;
  garbage = 0;
  nowMs = 0;
  collections = 0;
  young = 0;
  readonly watch = new MemoryWatch({
    anonymousBytes: () => (this.used + this.garbage) * MIB,
    nowMs: () => this.nowMs,
    collectYoung: () => {
      this.young += 1;
      this.nowMs += 2;
    },
    collectAll: () => {
      this.collections += 1;
      this.garbage = 0;
      this.nowMs += 20;
    },
  });

  /** Looks every 50 ms, while so many MiB of garbage are made in each. */
  run(looks: number, garbage: number): number {
    const before = this.collections;
    for (let look = 0; look < looks; look += 1) {
      this.nowMs += 50;
      this.garbage += garbage;
      this.watch.look();
    }
    return this.collections - before;
  }
}

test("nothing is done where there is little; what is young is collected before all is", () => {
  const process = new Process();
  process.used = 60;
  expect([process.run(1000, 0), process.young]).toEqual([0, 0]);
  expect([process.run(1, 10), process.young]).toEqual([0, 1]);
  expect(process.run(1, 40)).toBe(1);
  expect(process.garbage).toBe(0);
});

test("of much that is in use nothing is collected again and again", () => {
  const process = new Process();
  process.used = 300;
  expect([process.run(1000, 0), process.young]).toEqual([1, 0]);
  expect(process.run(3, 5)).toBe(0);
  expect(process.run(1, 5)).toBe(1);
  process.nowMs += 1_000;
  process.used = 20;
  expect(process.run(1, 300)).toBe(1);
  process.nowMs += 1_000;
  expect(process.run(1, 60)).toBe(0);
  expect(process.run(1, 10)).toBe(1);
});

test("collecting takes an eighth of the time at most, however much garbage is made", () => {
  const process = new Process();
  const collections = process.run(1000, 200);
  expect(collections).toBeGreaterThan(100);
  expect((collections * 20) / process.nowMs).toBeLessThan(1 / 8);
});
