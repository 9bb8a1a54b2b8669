/** Numbers of processes, which other processes get: what is killed is what was meant. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { runCommand } from "../../src/linux/command.ts";
import { argumentsOf, killIf } from "../../src/linux/process.ts";
import { endNumber, takeNumber } from "../fixtures/process-numbers.ts";
import { until } from "../fixtures/until.ts";

test("a process is killed when it is the right one, and one that is gone is fine", async () => {
  const child = Bun.spawn(["sleep", "1000"]);
  killIf(child.pid, () => false);
  expect(child.exitCode).toBe(null);
  killIf(child.pid, () => true);
  await child.exited;
  expect(child.signalCode).toBe("SIGKILL");
  killIf(child.pid, () => true);
});

test("a process that gets the number after the right one was found is not killed", async () => {
  const { stdout } = Bun.spawnSync(["sh", "-c", "sleep 2000 >/dev/null 2>&1 & echo $!"]);
  const pid = Number(stdout.toString());
  killIf(pid, () => {
    expect(argumentsOf(pid)).toContain("2000");
    process.kill(pid, "SIGKILL");
    takeNumber(pid);
    return true;
  });
  expect(argumentsOf(pid)).toContain("1000");
  await endNumber(pid);
});

test("a command's deadline does not kill the group of a process that has its number now", async () => {
  const file = `${process.env.TMPDIR}/numbers`;
  // It has ended when one of another session still holds its output.
  const script = `setsid sleep 2000 & echo $$ $! >${file}.new; mv ${file}.new ${file}`;
  const options = { deadlineMs: 1_000, ownSession: true };
  const command = runCommand(["sh", "-c", script], options);
  await until("its numbers", () => existsSync(file));
  const [own = 0, holder = 0] = readFileSync(file, "utf8").split(" ").map(Number);
  await until("its end", () => !existsSync(`/proc/${own}`));
  takeNumber(own);
  expect(await command).toMatchObject({ timedOut: true });
  await endNumber(holder);
  expect(argumentsOf(own)).toContain("1000");
  await endNumber(own);
});
