import { expect, test } from "bun:test";
import { CribError } from "../../src/error.ts";
import { pinnedBy } from "../../src/image/pinned.ts";
import { Semaphore } from "../../src/image/semaphore.ts";
import { SharedWork } from "../../src/image/shared-work.ts";

const never = new AbortController().signal;

test("work of one key is done once, and again when it is over", async () => {
  const work = new SharedWork<number, string>();
  let starts = 0;
  const start = async () => {
    starts += 1;
    await Bun.sleep(5);
    return `done ${starts}`;
  };
  const both = await Promise.all([1, 2].map((member) => work.join("k", member, never, start)));
  expect(both).toEqual(["done 1", "done 1"]);
  expect(await work.join("k", 3, never, start)).toBe("done 2");
});

test("work goes on while one member is left, and is aborted with the last", async () => {
  const work = new SharedWork<number, void>();
  const [first, second] = [new AbortController(), new AbortController()];
  let inner: AbortSignal | undefined;
  let cleaned = false;
  const start = (signal: AbortSignal) => {
    inner = signal;
    return new Promise<void>((_, reject) => {
      signal.addEventListener("abort", () => {
        setTimeout(() => {
          cleaned = true;
          reject(new Error("aborted"));
        }, 10);
      });
    });
  };
  const one = work.join("k", 1, first.signal, start);
  const two = work.join("k", 2, second.signal, start);
  await Bun.sleep(1);
  first.abort();
  await expect(one).rejects.toMatchObject({ code: "Canceled" });
  expect(inner?.aborted).toBe(false);
  second.abort();
  await expect(two).rejects.toMatchObject({ code: "Canceled" });
  expect(inner?.aborted).toBe(true);
  expect(cleaned).toBe(true);
  expect(work.has("k")).toBe(false);
});

test("a member that joined is told the failure", async () => {
  const work = new SharedWork<number, void>();
  const start = () => Promise.reject(new CribError("NotFound", "no"));
  const results = await Promise.allSettled([1, 2].map((n) => work.join("k", n, never, start)));
  expect(results.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
});

test("a semaphore lets its number in, in order, and forgets who gave up", async () => {
  const semaphore = new Semaphore(2);
  const running = new Set<number>();
  let most = 0;
  const order: number[] = [];
  const body = (n: number) => async () => {
    running.add(n);
    order.push(n);
    most = Math.max(most, running.size);
    await Bun.sleep(2);
    running.delete(n);
  };
  const gaveUp = new AbortController();
  const runs = [1, 2, 3, 4, 5].map((n) =>
    semaphore.run(n === 4 ? gaveUp.signal : never, body(n)).catch(() => order.push(-n)),
  );
  gaveUp.abort();
  await Promise.all(runs);
  expect(most).toBe(2);
  expect(order.filter((n) => n > 0)).toEqual([1, 2, 3, 5]);
  expect(order).toContain(-4);
});

test.each([
  ["a.b/c:1", true],
  ["a.b/pause*", true],
  ["*pause*", true],
  ["*:3.10", true],
  ["a.b/pause", false],
  ["pause*", false],
  ["a.b/PAUSE*", false],
])("pattern %s pins: %p", (pattern, pinned) => {
  const image = { id: "sha256:0", repoTags: ["a.b/c:1", "a.b/pause:3.10"], repoDigests: [] };
  expect(pinnedBy([pattern])(image)).toBe(pinned);
});
