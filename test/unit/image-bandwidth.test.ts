import { expect, test } from "bun:test";
import { Bandwidth } from "../../src/image/bandwidth.ts";

/** Time that passes only while somebody waits for it. */
class VirtualClock {
  #nowMs = 1000;
  readonly #waiting: Array<{ at: number; resolve: () => void }> = [];

  now(): number {
    return this.#nowMs;
  }

  wait(durationMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push({ at: this.#nowMs + durationMs, resolve });
    });
  }

  /** Lets time pass until nobody waits any more. */
  async run(): Promise<void> {
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      const next = this.#waiting.sort((a, b) => a.at - b.at).shift();
      if (next === undefined) return;
      this.#nowMs = next.at;
      next.resolve();
    }
  }
}

const signal = new AbortController().signal;

async function* pieces(count: number, bytes: number): AsyncGenerator<Uint8Array> {
  for (let index = 0; index < count; index++) yield new Uint8Array(bytes);
}

test("a download takes as long as the limit says, but for a burst of a tenth of a second", async () => {
  const clock = new VirtualClock();
  const limited = new Bandwidth(1000, clock).limit(pieces(20, 500), signal);
  let bytes = 0;
  const download = (async () => {
    for await (const piece of limited) bytes += piece.length;
  })();
  await clock.run();
  await download;
  expect(bytes).toBe(10_000);
  expect(clock.now()).toBe(1000 + 10_000 - 100);
});

test("two downloads share the limit, piece by piece", async () => {
  const clock = new VirtualClock();
  const bandwidth = new Bandwidth(1000, clock);
  const order: string[] = [];
  const download = async (name: string) => {
    for await (const _ of bandwidth.limit(pieces(5, 200), signal)) order.push(name);
  };
  const both = [download("a"), download("b")];
  await clock.run();
  await Promise.all(both);
  expect(order.join("")).toBe("ababababab");
  expect(clock.now()).toBe(1000 + 2000 - 100);
});

test("what was not used while nothing came is lost, but for the burst", async () => {
  const clock = new VirtualClock();
  const bandwidth = new Bandwidth(1000, clock);
  const idle = clock.wait(60_000);
  await clock.run();
  await idle;
  const download = (async () => {
    for await (const _ of bandwidth.limit(pieces(1, 1000), signal));
  })();
  await clock.run();
  await download;
  expect(clock.now()).toBe(61_000 + 1000 - 100);
});

test("a download that is given up does not wait its turn", async () => {
  const controller = new AbortController();
  const bandwidth = new Bandwidth(1);
  const download = (async () => {
    for await (const _ of bandwidth.limit(pieces(2, 1_000_000), controller.signal));
  })();
  setTimeout(() => controller.abort(), 1);
  await expect(download).rejects.toMatchObject({ code: "Canceled" });
});
