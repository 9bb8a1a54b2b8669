/** "ok": fine; "warn": works, but something is worth knowing; "fail": Crib or pods will not work. */
export type Level = "ok" | "warn" | "fail";

/** One line of `crib check`. */
export interface Finding {
  /** What was looked at, in a word or two. */
  check: string;
  level: Level;
  message: string;
  /** What to do about it; absent where there is nothing to do. */
  remedy?: string;
}

export function ok(check: string, message: string): Finding {
  return { check, level: "ok", message };
}

export function warn(check: string, message: string, remedy?: string): Finding {
  return { check, level: "warn", message, remedy };
}

export function fail(check: string, message: string, remedy: string): Finding {
  return { check, level: "fail", message, remedy };
}
