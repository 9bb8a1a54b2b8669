import { expect, test } from "bun:test";
import { type EncodedAnswer, VerboseAnswer } from "../../src/cri/service.ts";
import { Turns } from "../../src/cri/turns.ts";
import { ImageStatusResponse } from "../../src/gen/runtime/v1/image_pb.ts";

const NEVER_MS = 2 ** 31 - 1;

/** Asks for answers; tells which have been begun. */
function ask(turns: Turns, names: readonly string[]) {
  const begun: string[] = [];
  const answers = names.map((name) =>
    turns.answer(ImageStatusResponse, () => {
      begun.push(name);
      if (name === "broken") throw new Error(name);
      return new VerboseAnswer({}, { name });
    }),
  );
  return { begun, answers };
}

const textOf = (answer: EncodedAnswer) =>
  JSON.parse(ImageStatusResponse.decode(new Uint8Array(answer.take())).info.info ?? "").name;

test("an answer is begun when the one before it is sent, or could not be made", async () => {
  const { begun, answers } = ask(new Turns(NEVER_MS), ["a", "broken", "b", "c"]);
  const [a, broken, b, c] = answers;
  broken?.catch(() => undefined);
  const first = await a;
  // Turns pass in ticks of the event loop.
  for (let tick = 0; tick < 10; tick += 1) await Bun.sleep(0);
  expect(begun).toEqual(["a"]);
  first?.sent();
  await expect(broken).rejects.toThrow("broken");
  const second = await b;
  expect(begun).toEqual(["a", "broken", "b"]);
  second?.sent();
  expect([first, second, await c].map((answer) => answer && textOf(answer))).toEqual([
    "a",
    "b",
    "c",
  ]);
});

test("a client that does not read its answer does not hold up the next one's for ever", async () => {
  const { answers } = ask(new Turns(1), ["a", "b"]);
  expect((await Promise.all(answers)).map(textOf)).toEqual(["a", "b"]);
});

test("other work has its turn between any two answers", async () => {
  const turns = new Turns(NEVER_MS);
  const order: string[] = [];
  const answer = async (name: string) => {
    (await turns.answer(ImageStatusResponse, () => order.push(name) && {})).sent();
    setImmediate(() => order.push("other"));
  };
  await Promise.all([answer("a"), answer("b"), answer("c")]);
  expect(order).toEqual(["a", "other", "b", "other", "c"]);
});
