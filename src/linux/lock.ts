import { codeOf } from "./errno.ts";
import { check, libc } from "./libc.ts";

const functions = libc({ flock: { args: ["i32", "i32"], returns: "i32" } });
const LOCK_EX = 2;
const LOCK_NB = 4;

/** Takes the exclusive flock(2) of an open file without waiting; false: somebody else has it. */
export function tryLock(fd: number): boolean {
  try {
    check(functions.flock(fd, LOCK_EX | LOCK_NB), "flock");
    return true;
  } catch (error) {
    if (codeOf(error) === "EAGAIN") return false;
    throw error;
  }
}
