import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { runCommand } from "../../src/linux/command.ts";

const options = { deadlineMs: 20_000 };

test("input reaches the command whole, also when it is longer than a pipe", async () => {
  for (const length of [0, 10, 300_000]) {
    const stdin = "x".repeat(length);
    expect(await runCommand(["cat"], { ...options, stdin })).toMatchObject({
      exitCode: 0,
      stdout: stdin,
    });
  }
});

test("a command that does not read its input is no error", async () => {
  for (const length of [10, 300_000]) {
    const stdin = "x".repeat(length);
    const result = await runCommand(["sh", "-c", "echo out; exit 3"], { ...options, stdin });
    expect(result).toMatchObject({ exitCode: 3, stdout: "out\n" });
  }
});

test("commands with input leave no open files behind", async () => {
  await runCommand(["cat"], { ...options, stdin: "x" });
  const before = readdirSync("/proc/self/fd").length;
  for (let round = 0; round < 10; round += 1) {
    await runCommand(["cat"], { ...options, stdin: "x".repeat(5_000) });
  }
  // The last pipe is closed a turn or two of the event loop after the command's end.
  const end = performance.now() + 5_000;
  while (readdirSync("/proc/self/fd").length > before && performance.now() < end) {
    await Bun.sleep(5);
  }
  expect(readdirSync("/proc/self/fd").length).toBeLessThanOrEqual(before);
});

test("a command that takes too long is killed", async () => {
  const result = await runCommand(["sleep", "1000"], { deadlineMs: 50, stdin: "x" });
  expect(result).toMatchObject({ timedOut: true, exitCode: 137 });
});
