import { beforeEach, expect, test } from "bun:test";
import { CribError } from "../../src/error.ts";
import { type Creation, Creations } from "../../src/state/creations.ts";

interface Made {
  id: string;
  unclaimed: boolean;
  fingerprint: string;
}

let creations: Creations;
let made: Made | undefined;
let discarded: string[];
let makes: PromiseWithResolvers<void>[];

beforeEach(() => {
  creations = new Creations();
  made = undefined;
  discarded = [];
  makes = [];
});

/** A creation of the one name of these tests; `make` waits until the test lets it go on. */
function creation(content = "a", signal = new AbortController().signal): Creation {
  return {
    what: "pod default/web",
    key: "web",
    fingerprint: () => content,
    signal,
    existing: () => made,
    async make() {
      const gate = Promise.withResolvers<void>();
      makes.push(gate);
      const id = `id${makes.length}`;
      await gate.promise;
      made = { id, unclaimed: false, fingerprint: content };
      return id;
    },
    async discard(id) {
      discarded.push(id);
      made = undefined;
    },
    setUnclaimed(_id, unclaimed) {
      if (made !== undefined) made.unclaimed = unclaimed;
    },
  };
}

const settle = () => Bun.sleep(0);

/** Lets the nth `make` go on, or fail. */
async function finish(index: number, error?: Error): Promise<void> {
  await settle();
  const gate = makes[index];
  if (gate === undefined) throw new Error(`make number ${index} was not called`);
  if (error === undefined) gate.resolve();
  else gate.reject(error);
  await settle();
}

async function code(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return error instanceof CribError ? error.code : String(error);
}

test("the same request joins the running creation", async () => {
  const both = [creations.run(creation()), creations.run(creation())];
  await finish(0);
  expect(await Promise.all(both)).toEqual(["id1", "id1"]);
  expect(makes).toHaveLength(1);
});

test("a finished creation whose answer was taken is AlreadyExists, with the id", async () => {
  const first = creations.run(creation());
  await finish(0);
  await first;
  for (const content of ["a", "b"]) {
    const again = creations.run(creation(content));
    await expect(again).rejects.toThrow("pod default/web is there already: id1");
    expect(await code(creations.run(creation(content)))).toBe("AlreadyExists");
  }
});

test("one whose every client had gone is handed to the next that asks for the same", async () => {
  const client = new AbortController();
  const first = creations.run(creation("a", client.signal));
  await settle();
  client.abort();
  await finish(0);
  await first;
  expect(made).toMatchObject({ unclaimed: true });
  expect(await creations.run(creation())).toBe("id1");
  expect(made).toMatchObject({ unclaimed: false });
  expect(await code(creations.run(creation()))).toBe("AlreadyExists");
});

test("it is claimed when one of several clients stayed", async () => {
  const client = new AbortController();
  const gone = creations.run(creation("a", client.signal));
  const stays = creations.run(creation());
  await settle();
  client.abort();
  await finish(0);
  await Promise.all([gone, stays]);
  expect(made).toMatchObject({ unclaimed: false });
});

test("a client that was gone before it asked claims nothing", async () => {
  const run = creations.run(creation("a", AbortSignal.abort()));
  await finish(0);
  await run;
  expect(made).toMatchObject({ unclaimed: true });
});

test("another content waits for the running one, and then finds it taken", async () => {
  const first = creations.run(creation());
  const other = code(creations.run(creation("b")));
  await finish(0);
  expect(await first).toBe("id1");
  expect(await other).toBe("AlreadyExists");
  expect(makes).toHaveLength(1);
});

test("another content replaces one that nobody claimed", async () => {
  const client = new AbortController();
  const first = creations.run(creation("a", client.signal));
  await settle();
  client.abort();
  const other = creations.run(creation("b"));
  await finish(0);
  await first;
  await finish(1);
  expect(await other).toBe("id2");
  expect(discarded).toEqual(["id1"]);
});

test("a failure reaches all who wait, and leaves the name free", async () => {
  const both = [code(creations.run(creation())), code(creations.run(creation()))];
  await finish(0, new CribError("Internal", "broken"));
  expect(await Promise.all(both)).toEqual(["Internal", "Internal"]);
  const again = creations.run(creation());
  await finish(1);
  expect(await again).toBe("id2");
});

test("different names do not meet", async () => {
  const one = creations.run(creation());
  const two = creations.run({ ...creation(), key: "other" });
  await finish(0);
  await finish(1);
  expect(await Promise.all([one, two])).toEqual(["id1", "id2"]);
});
