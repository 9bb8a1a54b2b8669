import { expect, test } from "bun:test";
import type { Core } from "../../src/container/core.ts";
import { endingOf, finishSoon } from "../../src/container/exit.ts";
import { Exits } from "../../src/container/exits.ts";

test("all who wait for an exit are woken by it, and nobody else", async () => {
  const exits = new Exits();
  const waits = [exits.wait("a", 60_000), exits.wait("a", 60_000)];
  const other = exits.wait("b", 1);
  exits.notify("a");
  expect(await Promise.all(waits)).toEqual([true, true]);
  expect(await other).toBe(false);
  exits.notify("a");
  expect(await exits.wait("a", 0)).toBe(false);
});

test("an exit's reason is CRI's", () => {
  const exit = { id: "c", exitCode: 0, signal: 0, finishedAtNs: 5n, oomKilled: false };
  const ending = (changes: object) => endingOf({ ...exit, droppedLogBytes: 0n, ...changes });
  expect(ending({})).toMatchObject({ reason: "Completed", exitCode: 0, finishedAtNs: 5n });
  expect(ending({ exitCode: 1 }).reason).toBe("Error");
  expect(ending({ exitCode: 137, signal: 9 }).reason).toBe("Error");
  expect(ending({ exitCode: 137, signal: 9, oomKilled: true }).reason).toBe("OOMKilled");
});

const ending = { exitCode: 3, finishedAtNs: 5n, reason: "Error", message: "" };

/** A core in which only ends can be recorded; what was saved together, and who was told when. */
function recorder(save: (ids: string[]) => void) {
  const events: string[] = [];
  const exits = new Exits();
  const containers = new Map(
    ["a", "b", "c"].map((id) => [id, { id, podId: "p", phase: "running", droppedLogBytes: 0n }]),
  );
  for (const id of containers.keys()) {
    void exits.wait(id, 10_000).then(() => events.push(`told ${id}`));
  }
  const store = {
    containers,
    saveContainers: (saved: Array<{ id: string }>) => {
      const ids = saved.map(({ id }) => id);
      events.push(`saved ${ids.join(" ")}`);
      save(ids);
    },
  };
  const operations = { run: async () => undefined };
  return { core: { store, exits, operations } as unknown as Core, containers, events };
}

test("ends of one turn of the loop are saved together, and told after that", async () => {
  const { core, containers, events } = recorder(() => undefined);
  finishSoon(core, "a", ending);
  await Promise.resolve();
  finishSoon(core, "c", ending);
  finishSoon(core, "gone", ending);
  expect(containers.get("a")?.phase).toBe("running");
  await new Promise((resolve) => setImmediate(resolve));
  await Promise.resolve();
  expect(events).toEqual(["saved a c", "told a", "told c"]);
  expect([...containers.values()].map(({ phase }) => phase)).toEqual([
    "exited",
    "running",
    "exited",
  ]);
  finishSoon(core, "a", ending);
  finishSoon(core, "b", ending);
  await new Promise((resolve) => setImmediate(resolve));
  await Promise.resolve();
  expect(events.slice(3)).toEqual(["saved b", "told b"]);
});

test("ends that cannot be saved together are saved one by one, and told whatever comes", async () => {
  const { core, events } = recorder((ids) => {
    if (ids.includes("b")) throw new Error("no room");
  });
  for (const id of ["a", "b", "c"]) finishSoon(core, id, ending);
  await new Promise((resolve) => setImmediate(resolve));
  await Promise.resolve();
  expect(events).toEqual([
    "saved a b c",
    "saved a",
    "saved b",
    "saved c",
    "told a",
    "told b",
    "told c",
  ]);
});
