/** Processes that are known by their numbers alone: a number is another process's as soon as one was reaped. */
import { closeSync, readFileSync } from "node:fs";
import { check, libc, SyscallError } from "./libc.ts";

const pidfdOpen = libc({ syscall: { args: ["i64", "i32", "u32"], returns: "i64" } });
const pidfdSendSignal = libc({
  syscall: { args: ["i64", "i32", "i32", "ptr", "u32"], returns: "i64" },
});

/** The same on all architectures. */
const SYS_PIDFD_SEND_SIGNAL = 424;
const SYS_PIDFD_OPEN = 434;
const SIGKILL = 9;

/**
 * SIGKILLs the process that has this number, if it is the right one: `isRight` looks at the number while
 * the process is held, so that what it sees is what is killed. One that is gone is fine.
 *
 * @throws SyscallError EPERM, ...
 */
export function killIf(pid: number, isRight: () => boolean): void {
  const held = unlessGone(() =>
    check(pidfdOpen.syscall(SYS_PIDFD_OPEN, pid, 0), "pidfd_open", `${pid}`),
  );
  if (held === undefined) return;
  try {
    if (!isRight()) return;
    unlessGone(() => {
      const sent = pidfdSendSignal.syscall(SYS_PIDFD_SEND_SIGNAL, held, SIGKILL, null, 0);
      return check(sent, "kill", `${pid}`);
    });
  } finally {
    closeSync(held);
  }
}

function unlessGone(call: () => number): number | undefined {
  try {
    return call();
  } catch (error) {
    if (error instanceof SyscallError && error.code === "ESRCH") return undefined;
    throw error;
  }
}

/** The arguments that a process was started with; none, when it is gone or a zombie. */
export function argumentsOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch {
    return [];
  }
}
