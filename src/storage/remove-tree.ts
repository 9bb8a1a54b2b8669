import { rm } from "node:fs/promises";
import { CribError } from "../error.ts";
import { childEnvironment, runCommand } from "../linux/command.ts";

const DEADLINE_MS = 10 * 60_000;
const RETRIES = 3;

/**
 * Deletes a tree; no error when it is not there. By rm(1), since what a container or an archive has nested
 * a thousand directories deep takes Bun's own rm the square of that: hours, for a tree that somebody made
 * in a second. On a node without one Bun's does it.
 *
 * @throws CribError DeadlineExceeded; what Bun's rm throws.
 */
export async function removeTree(path: string): Promise<void> {
  const program = Bun.which("rm", { PATH: childEnvironment().PATH });
  if (program !== null) {
    const argv = [program, "-rf", "--", path];
    const options = { deadlineMs: DEADLINE_MS, outputLimitBytes: 0, work: "bulk" } as const;
    const { exitCode, timedOut } = await runCommand(argv, options);
    if (timedOut) throw new CribError("DeadlineExceeded", `${path}: not deleted in time`);
    if (exitCode === 0) return;
  }
  // Where rm has failed this says why.
  await rm(path, { recursive: true, force: true, maxRetries: RETRIES });
}
