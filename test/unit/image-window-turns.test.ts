import { expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import { CribError } from "../../src/error.ts";
import { WindowTurns } from "../../src/image/window-turns.ts";

const NEVER = new AbortController().signal;

/** The header of a frame whose window is `2 ** log` bytes, and nothing more. */
const frame = (log: number) => Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3]);

async function* pieces(...chunks: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* chunks;
}

/** A layer that is unpacked until `end` is called; `begun` when its first bytes have passed. */
function start(turns: WindowTurns, bytes: Buffer, signal = NEVER) {
  const gate = Promise.withResolvers<void>();
  const state = { begun: false, end: gate.resolve, done: Promise.resolve() };
  state.done = turns.run(pieces(bytes), "layer", signal, async (layer) => {
    for await (const _ of layer) state.begun = true;
    await gate.promise;
  });
  state.done.catch(() => {});
  return state;
}

test("layers with large windows come one after the other, the others at once", async () => {
  const turns = new WindowTurns();
  const layers = [25, 25, 24, 23, 20].map((log) => start(turns, frame(log)));
  const plain = start(turns, Buffer.from("plain"));
  await sleep(1);
  const begun = () => layers.map((layer) => layer.begun);
  expect(begun()).toEqual([true, false, false, true, true]);
  expect(plain.begun).toBe(true);
  layers[0]?.end();
  await layers[0]?.done;
  await sleep(1);
  expect(begun()).toEqual([true, true, false, true, true]);
  for (const layer of [...layers, plain]) layer.end();
  await Promise.all([...layers, plain].map((layer) => layer.done));
  expect(begun()).toEqual([true, true, true, true, true]);
});

test("a layer that fails, and one that is cancelled while it waits, give up their turn", async () => {
  const turns = new WindowTurns();
  const failed = turns.run(pieces(frame(25)), "layer", NEVER, async (layer) => {
    for await (const _ of layer) throw new Error("disk full");
  });
  await expect(failed).rejects.toThrow("disk full");

  const first = start(turns, frame(25));
  await sleep(1);
  const controller = new AbortController();
  const second = start(turns, frame(25), controller.signal);
  const third = start(turns, frame(25));
  await sleep(1);
  controller.abort();
  await expect(second.done).rejects.toMatchObject({ code: "Canceled" });
  first.end();
  third.end();
  await third.done;
  expect(third.begun).toBe(true);
});

test("a window above 32 MiB is refused before its frame is passed on", async () => {
  const lastBlock = Buffer.from([1, 0, 0]);
  let passed = 0;
  const refused = new WindowTurns().run(
    pieces(frame(25), lastBlock, frame(27)),
    "layer sha256:1",
    NEVER,
    async (layer) => {
      for await (const _ of layer) passed += 1;
    },
  );
  await expect(refused).rejects.toEqual(
    new CribError(
      "FailedPrecondition",
      "layer sha256:1: a zstd frame has a window of 128 MiB, at most 32 MiB",
    ),
  );
  expect(passed).toBe(2);
});
