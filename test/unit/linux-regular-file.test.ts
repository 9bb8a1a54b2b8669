import { afterAll, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadRegularFile, readRegularFile } from "../../src/linux/regular-file.ts";

const directory = mkdtempSync(join(tmpdir(), "crib-regular-"));
afterAll(() => rmSync(directory, { recursive: true }));

const file = join(directory, "file");
writeFileSync(file, "text");
symlinkSync("file", join(directory, "link"));
symlinkSync("/dev/zero", join(directory, "to-device"));
writeFileSync(join(directory, "empty"), "");
writeFileSync(join(directory, "huge"), "");
truncateSync(join(directory, "huge"), 2 ** 30);
execFileSync("mkfifo", [join(directory, "fifo")]);

const both = (path: string, limit?: number) => [
  () => loadRegularFile(path, limit),
  async () => readRegularFile(path, limit),
];

test.each([
  ["file", "text"],
  ["link", "text"],
  ["empty", ""],
])("%s is read", async (name, content) => {
  for (const read of both(join(directory, name), 4))
    expect((await read()).toString()).toBe(content);
});

test("a file of /proc, which has no size, is read", async () => {
  for (const read of both("/proc/self/cmdline")) expect((await read()).length).toBeGreaterThan(0);
});

test.each([
  ["fifo", "EINVAL: not a regular file, open '"],
  ["to-device", "EINVAL: not a regular file"],
  ["", "EINVAL: not a regular file"],
  ["huge", "EFBIG: larger than 4194304 bytes, read '"],
  ["absent", "ENOENT"],
  ["file/below", "ENOTDIR"],
])("%s is refused at once", async (name, message) => {
  for (const read of both(join(directory, name))) await expect(read()).rejects.toThrow(message);
});

test("one byte more than the limit is refused", async () => {
  for (const read of both(file, 3)) await expect(read()).rejects.toThrow("larger than 3 bytes");
});
