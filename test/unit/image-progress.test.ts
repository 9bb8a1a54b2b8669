import { expect, test } from "bun:test";
import { CribError } from "../../src/error.ts";
import { Progress, type PullView } from "../../src/image/progress.ts";

/** Pieces that come when they are let. */
function held() {
  const gate = Promise.withResolvers<void>();
  async function* pieces() {
    yield new Uint8Array(30);
    await gate.promise;
    yield new Uint8Array(70);
  }
  return { pieces: pieces(), release: gate.resolve };
}

async function drain(pieces: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const _ of pieces);
}

test("a pull is listed with the bytes and layers that have come, until it has ended", async () => {
  const progress = new Progress();
  const blob = held();
  const pull = progress.run("a.io/x:1", async (own) => {
    own.expect(3, [
      { chainId: "one", size: 100 },
      { chainId: "two", size: 11 },
    ]);
    await progress.download("one", (count) => drain(count(blob.pieces)));
    own.have("one");
    expect(progress.list()).toMatchObject([{ bytes: 100, layers: 2 }]);
  });
  await Bun.sleep(0);
  expect(progress.list()).toMatchObject([
    { image: "a.io/x:1", bytes: 30, totalBytes: 111, layers: 1, totalLayers: 3 },
  ]);
  blob.release();
  await pull;
  expect(progress.list()).toEqual([]);
  expect(progress.totals).toMatchObject({ succeeded: 1, failed: 0, bytes: 100, layers: 1 });
});

test("two pulls that wait for one layer both show it, and its bytes count once", async () => {
  const progress = new Progress();
  const blob = held();
  const end = Promise.withResolvers<void>();
  const pull = (image: string) =>
    progress.run(image, async (own) => {
      own.expect(1, [{ chainId: "one", size: 100 }]);
      await end.promise;
      own.have("one");
    });
  const both = [pull("a"), pull("b")];
  const download = progress.download("one", (count) => drain(count(blob.pieces)));
  await Bun.sleep(0);
  expect(progress.list().map(({ bytes }) => bytes)).toEqual([30, 30]);
  blob.release();
  await download;
  end.resolve();
  await Promise.all(both);
  expect(progress.totals).toMatchObject({ succeeded: 2, bytes: 100, layers: 1 });
});

test("failed and cancelled pulls are counted apart, and a layer that failed counts as none", async () => {
  const progress = new Progress();
  const failing = progress.run("a", () =>
    progress.download("one", () => Promise.reject(new Error("broken"))),
  );
  await expect(failing).rejects.toThrow("broken");
  const canceled = progress.run("b", () => Promise.reject(new CribError("Canceled", "gone")));
  await expect(canceled).rejects.toThrow("gone");
  expect(progress.totals).toMatchObject({ succeeded: 0, failed: 1, canceled: 1, layers: 0 });
  expect(progress.list()).toEqual([]);
});

test("a pull tells of itself again and again, and no more when it has ended", async () => {
  const told: PullView[] = [];
  const enough = Promise.withResolvers<void>();
  const tell = (pull: PullView) => {
    told.push(pull);
    if (told.length === 3) enough.resolve();
  };
  const progress = new Progress({ intervalMs: 1, tell });
  await progress.run("a", () => enough.promise);
  const count = told.length;
  await Bun.sleep(20);
  expect(told).toHaveLength(count);
  expect(told[0]).toMatchObject({ image: "a", bytes: 0, totalBytes: 0 });
});
