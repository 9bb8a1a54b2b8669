import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { codeOf, errnoName } from "../../src/linux/errno.ts";
import { SyscallError } from "../../src/linux/libc.ts";

/** As Node makes them; the kernel's number is negative there. */
function nodeError(errno: number, code: string): Error {
  return Object.assign(new Error(code), { errno, code });
}

test.each([
  [95, "EOPNOTSUPP", ["ENOTSUP", "EOPNOTSUPP"]],
  [11, "EAGAIN", ["EAGAIN", "EWOULDBLOCK"]],
  [35, "EDEADLK", ["EDEADLK", "EDEADLOCK"]],
] as const)("error %d is %s, whoever reports it and by whichever name", (errno, name, aliases) => {
  expect(codeOf(new SyscallError("x", errno))).toBe(name);
  expect(new SyscallError("x", errno).code).toBe(name);
  for (const alias of aliases) {
    expect(codeOf(nodeError(-errno, alias))).toBe(name);
    expect(codeOf(nodeError(errno, alias))).toBe(name);
  }
});

test("each number has one name", () => {
  for (const [alias, errno] of Object.entries(constants.errno)) {
    const name = errnoName(errno);
    expect(codeOf(Object.assign(new Error(), { code: alias }))).toBe(name);
  }
  expect(errnoName(117)).toBe("errno 117");
});

test("an error of a file operation has its code, and what is none has none", () => {
  const failure = (() => {
    try {
      return readFileSync("/nowhere");
    } catch (error) {
      return error;
    }
  })();
  expect(codeOf(failure)).toBe("ENOENT");
  expect([new Error("x"), nodeError(Number.NaN, "ERR_X"), "ENOENT", undefined].map(codeOf)).toEqual(
    ["", "", "", ""],
  );
});
