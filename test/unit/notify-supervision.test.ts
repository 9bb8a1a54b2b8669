import { describe, expect, test } from "bun:test";
import { feedWatchdog } from "../../src/cli/supervision.ts";
import { changedKeys } from "../../src/config/changes.ts";
import { defaultConfig } from "../../src/config/config.ts";
import type { Notifier } from "../../src/linux/notify.ts";
import { until } from "../fixtures/until.ts";

function notifier(watchdogMs: number | undefined) {
  const sent: string[] = [];
  const it: Notifier = {
    present: true,
    watchdogMs,
    send: async (...lines) => {
      sent.push(lines.join("|"));
    },
  };
  return { it, sent };
}

describe("the watchdog", () => {
  test("is fed after each self-check that succeeds, within its interval", async () => {
    const { it, sent } = notifier(40);
    const deadlines: number[] = [];
    const end = feedWatchdog(it, async (deadlineMs) => {
      deadlines.push(deadlineMs);
    });
    await until("three are sent", () => sent.length >= 3);
    end();
    expect(new Set(sent)).toEqual(new Set(["WATCHDOG=1"]));
    // A slow check, and the pause before it, fit into the interval.
    expect(deadlines[0]).toBe(20);
  });

  test("starves while the daemon's own socket does not answer, and is fed when it does again", async () => {
    const { it, sent } = notifier(8);
    const answer = Promise.withResolvers<void>();
    let checks = 0;
    const end = feedWatchdog(it, async () => {
      checks += 1;
      if (checks < 4) throw new Error("no answer");
      await answer.promise;
    });
    await until("four checks", () => checks === 4);
    expect(sent).toEqual([]);
    answer.resolve();
    await until("one is sent", () => sent.length > 0);
    end();
  });

  test("ends with the daemon, also in the middle of a check", async () => {
    const { it, sent } = notifier(8);
    const gate = Promise.withResolvers<void>();
    const end = feedWatchdog(it, () => gate.promise);
    end();
    gate.resolve();
    await Bun.sleep(30);
    expect(sent).toEqual([]);
  });

  test("nobody asks for is not fed and checks nothing", async () => {
    const { it } = notifier(undefined);
    let checks = 0;
    feedWatchdog(it, async () => {
      checks += 1;
    })();
    expect(checks).toBe(0);
  });
});

describe("what a reload changes", () => {
  test("is named by key; tables and lists by their content", () => {
    const before = defaultConfig();
    const after = defaultConfig();
    expect(changedKeys(before, after)).toEqual([]);
    after.log.level = "debug";
    after.network.bin_dirs = [...after.network.bin_dirs, "/x"];
    after.runtime.handlers = { kata: { path: "/kata" } };
    expect(changedKeys(before, after).sort()).toEqual([
      "log.level",
      "network.bin_dirs",
      "runtime.handlers",
    ]);
  });
});
