import { expect, test } from "bun:test";
import { KeptOutput, OutputPool } from "../../src/container/exec-output.ts";
import type { Flow } from "../../src/monitor/types.ts";
import { until } from "../fixtures/until.ts";

const MIB = 1024 * 1024;

/** A command that says more as long as nobody holds it up. */
class Speaker {
  readonly output: KeptOutput;
  readonly asked: Flow[] = [];

  constructor(pool: OutputPool, timeoutMs = 0, limitBytes = 16 * MIB) {
    this.output = new KeptOutput(pool, { limitBytes, timeoutMs, command: '"test"' });
  }

  readonly setFlow = async (flow: Flow) => {
    this.asked.push(flow);
  };

  get held(): boolean {
    return this.asked.at(-1) === "held";
  }

  say(bytes: number): void {
    this.output.add(this.output.stdout, new Uint8Array(bytes).fill(7), this.setFlow);
  }

  get kept(): number {
    const { stdout, stderr } = this.output;
    return [...stdout, ...stderr].reduce((sum, chunk) => sum + chunk.length, 0);
  }
}

test("of commands that say much one goes on, the others are held up and follow in their order", () => {
  const pool = new OutputPool();
  const speakers = Array.from({ length: 8 }, () => new Speaker(pool));
  const order: number[] = [];
  for (;;) {
    for (let turn = 0; turn < 16 * 64; turn++) {
      for (const speaker of speakers) if (!speaker.held) speaker.say(32 * 1024);
      const total = speakers.reduce((sum, speaker) => sum + speaker.kept, 0);
      expect(total).toBeLessThan(16 * MIB + 8 * 512 * 1024);
    }
    const done = speakers.findIndex((speaker) => speaker.kept === 16 * MIB);
    if (done < 0) break;
    order.push(done);
    speakers[done]?.output.close();
  }
  expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  const [first, ...others] = speakers.map(({ asked }) => asked);
  expect(first).toEqual(["dropped"]);
  for (const asked of others) expect(asked).toEqual(["held", "on", "dropped"]);
});

test("what a probe says is kept beside a command that says much and never ends", () => {
  const pool = new OutputPool();
  new Speaker(pool).say(MIB);
  const probe = new Speaker(pool, 1000);
  probe.say(200 * 1024);
  expect(probe.asked).toEqual([]);
  expect(probe.kept).toBe(200 * 1024);
});

test("small outputs are not without end together: then they are held up, and follow when others end", () => {
  const pool = new OutputPool();
  const speakers = Array.from({ length: 64 }, () => new Speaker(pool));
  for (const speaker of speakers) speaker.say(256 * 1024);
  const first = new Speaker(pool);
  const second = new Speaker(pool);
  for (const speaker of [first, second]) speaker.say(1);
  expect([first.held, second.held]).toEqual([false, true]);
  first.output.close();
  expect(second.held).toBe(false);
  for (const speaker of [...speakers, second]) speaker.output.close();
  const last = new Speaker(pool);
  last.say(256 * 1024);
  expect(last.asked).toEqual([]);
});

test("a command that is held up for a quarter of its time goes on, and no more of its output is kept", async () => {
  const pool = new OutputPool();
  const large = new Speaker(pool);
  large.say(MIB);
  const late = new Speaker(pool, 40);
  late.say(MIB);
  expect(late.held).toBe(true);
  await until("it goes on", () => !late.held);
  late.say(MIB);
  expect(late.kept).toBe(MIB);
  expect(late.asked).toEqual(["held", "dropped"]);
  // It gave up its place: the turn is free for the next one.
  large.output.close();
  const next = new Speaker(pool);
  next.say(MIB);
  expect(next.asked).toEqual([]);
});

test("one that ends while it is held up leaves the turn to the next", () => {
  const pool = new OutputPool();
  const [first, second, third] = [new Speaker(pool), new Speaker(pool), new Speaker(pool)];
  for (const speaker of [first, second, third]) speaker.say(MIB);
  second.output.close();
  second.output.close();
  first.output.close();
  expect([second.held, third.held]).toEqual([true, false]);
});

test("where a monitor cannot hold a command up no more of its output is kept", async () => {
  const pool = new OutputPool();
  new Speaker(pool).say(MIB);
  const output = new KeptOutput(pool, { limitBytes: 16 * MIB, timeoutMs: 0, command: '"test"' });
  const refused: Flow[] = [];
  const setFlow = async (flow: Flow) => {
    refused.push(flow);
    throw new Error("unknown request");
  };
  output.add(output.stderr, new Uint8Array(MIB), setFlow);
  await until("it is refused", () => refused.length === 3);
  expect(refused).toEqual(["held", "dropped", "on"]);
  output.add(output.stderr, new Uint8Array(MIB), setFlow);
  expect(output.stderr).toHaveLength(1);
});

test("stdout and stderr share the limit, and what comes after it is dropped", () => {
  const speaker = new Speaker(new OutputPool(), 0, 100);
  speaker.say(60);
  speaker.output.add(speaker.output.stderr, new Uint8Array(60), speaker.setFlow);
  speaker.say(60);
  expect(speaker.output.stdout.map(({ length }) => length)).toEqual([60]);
  expect(speaker.output.stderr.map(({ length }) => length)).toEqual([40]);
  expect(speaker.asked).toEqual(["dropped"]);
});
