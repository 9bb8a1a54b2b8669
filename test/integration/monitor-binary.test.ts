/** Unpacking the embedded helper. Needs root for the noexec mount. */
import { afterAll, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { unpackProgram } from "../../src/monitor/unpack.ts";

const root = mkdtempSync(join(tmpdir(), "crib-unpack-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const program = new TextEncoder().encode("#!/bin/sh\necho unpacked\n");
const output = (path: string) => spawnSync(path, { encoding: "utf8" }).stdout;

test("it can be run, only by its owner, and is written once", () => {
  const path = unpackProgram("helper", program, [join(root, "state")]);
  expect(output(path)).toBe("unpacked\n");
  const { ino, mode } = statSync(path);
  expect(mode & 0o777).toBe(0o700);
  expect(statSync(unpackProgram("helper", program, [join(root, "state")])).ino).toBe(ino);
});

test("another version gets another path; a damaged copy is replaced", () => {
  const directory = join(root, "versions");
  const path = unpackProgram("helper", program, [directory]);
  const other = unpackProgram("helper", new TextEncoder().encode("#!/bin/sh\n"), [directory]);
  expect(other).not.toBe(path);
  writeFileSync(path, "#!/bin/sh\necho damaged\n");
  expect(output(unpackProgram("helper", program, [directory]))).toBe("unpacked\n");
  expect(readdirSync(join(directory, "bin")).length).toBe(2);
});

test("a directory mounted noexec is passed over; none at all is an error", () => {
  const noexec = join(root, "noexec");
  mkdirSync(noexec);
  expect(spawnSync("mount", ["-t", "tmpfs", "-o", "noexec", "none", noexec]).status).toBe(0);
  try {
    const path = unpackProgram("helper", program, [noexec, join(root, "fallback")]);
    expect(path).toStartWith(join(root, "fallback", "bin"));
    expect(output(path)).toBe("unpacked\n");
    expect(() => unpackProgram("helper", program, [noexec])).toThrow("no place to run helper from");
  } finally {
    spawnSync("umount", [noexec]);
  }
});
