/**
 * Failures of system calls, told apart by number. Some numbers have two names (95 is ENOTSUP and EOPNOTSUPP),
 * and libraries differ in which they use: here each has one, and the type knows no other.
 */
import { constants } from "node:os";

/** The other names, which a comparison may not use; Windows' are in the types only. */
type Alias = "ENOTSUP" | "EWOULDBLOCK" | `WSA${string}`;
export type ErrnoName = Exclude<keyof typeof constants.errno, Alias>;
/** A number that Node does not name is told as it is. */
export type ErrnoCode = ErrnoName | `errno ${number}`;

const ALIASES: readonly string[] = ["ENOTSUP", "EWOULDBLOCK"] satisfies Alias[];
const NUMBERS = new Map<string, number>(Object.entries(constants.errno));
const NAMES = new Map<number, ErrnoName>();
for (const [name, value] of NUMBERS) if (isOwnName(name)) NAMES.set(value, name);

function isOwnName(name: string): name is ErrnoName {
  return NUMBERS.has(name) && !ALIASES.includes(name);
}

/** The name of an errno (positive). */
export function errnoName(errno: number): ErrnoCode {
  return NAMES.get(errno) ?? `errno ${errno}`;
}

/** The number (positive) that a failed system call tells, Node's or ours; undefined for any other error. */
export function errnoOf(error: unknown): number | undefined {
  if (!(error instanceof Error)) return undefined;
  if ("errno" in error && Number.isInteger(error.errno)) return Math.abs(Number(error.errno));
  return "code" in error && typeof error.code === "string" ? NUMBERS.get(error.code) : undefined;
}

/** What a failed system call failed with, by its number ("ENOENT"); "" for any other error. */
export function codeOf(error: unknown): ErrnoCode | "" {
  const errno = errnoOf(error);
  return errno === undefined ? "" : errnoName(errno);
}
