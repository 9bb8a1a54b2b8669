import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readKernelFile } from "../../src/linux/kernel-file.ts";
import { OciRuntime } from "../../src/runtime/oci-runtime.ts";

const directory = mkdtempSync(join(tmpdir(), "crib-kernel-file-"));
const file = join(directory, "file");
afterAll(() => rmSync(directory, { recursive: true }));

const pids = (count: number) => Array.from({ length: count }, (_, pid) => `${pid}\n`).join("");

test.each([0, 1, 1000, 20_000])("a kernel file of %d lines is read whole", (count) => {
  writeFileSync(file, pids(count));
  expect(readKernelFile(file)).toBe(pids(count));
});

test("of one that is endless the first lines are read, and no part of one", () => {
  writeFileSync(file, pids(1_000_000));
  const text = readKernelFile(file) ?? "";
  expect(text.length).toBeGreaterThan(256 * 1024 - 8);
  expect(text.length).toBeLessThan(1024 * 1024);
  expect(pids(1_000_000).startsWith(text)).toBe(true);
  expect(text.endsWith("\n")).toBe(true);
});

test("one that is gone is undefined", () => {
  expect(readKernelFile(join(directory, "gone"))).toBeUndefined();
});

test("the OCI runtime's last error is found at the end of its log, however long that is", () => {
  const runtime = new OciRuntime({
    handler: "x",
    path: "/x",
    root: directory,
    systemdCgroup: false,
  });
  const line = (msg: string) => `${JSON.stringify({ level: "error", msg })}\n`;
  writeFileSync(file, line("first").repeat(10_000) + line("last"));
  expect(runtime.readLog(file)).toBe("last");
  writeFileSync(file, line("only"));
  expect(runtime.readLog(file)).toBe("only");
  writeFileSync(file, line("x".repeat(1_000_000)));
  expect(runtime.readLog(file)).toBeUndefined();
});
