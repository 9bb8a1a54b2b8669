import { afterEach, beforeEach, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import {
  closeSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readCapabilities } from "../../src/linux/capabilities.ts";
import {
  deviceNumber,
  getXattr,
  openFileInRoot,
  openInRoot,
  setTimes,
  setXattr,
} from "../../src/linux/file.ts";
import { mount } from "../../src/linux/mount.ts";

let root: string;
let outside: string;
beforeEach(() => {
  const base = mkdtempSync(join(tmpdir(), "crib-file-"));
  root = join(base, "root");
  outside = join(base, "outside");
  mkdirSync(join(root, "etc"), { recursive: true });
  writeFileSync(outside, "secret");
  writeFileSync(join(root, "outside"), "inside");
  writeFileSync(join(root, "etc/passwd"), "root:x:0:0::/:/bin/sh\n");
});
afterEach(() => rmSync(join(root, ".."), { recursive: true, force: true }));

async function read(path: string): Promise<string | undefined> {
  await using file = await openFileInRoot(root, path);
  return file?.readFile("utf8");
}

test("a file is read inside the root", async () => {
  expect(await read("/etc/passwd")).toBe("root:x:0:0::/:/bin/sh\n");
});

test("absolute and climbing symlinks resolve inside the root", async () => {
  symlinkSync("/outside", join(root, "absolute"));
  symlinkSync("../../../../outside", join(root, "etc/climbing"));
  expect(await read("absolute")).toBe("inside");
  expect(await read("etc/climbing")).toBe("inside");
  expect(await read("../outside")).toBe("inside");
});

test("a missing file is undefined, also below a file", async () => {
  expect(await read("/nope")).toBeUndefined();
  expect(await read("/outside/below")).toBeUndefined();
});

test("a FIFO is refused without blocking", async () => {
  execFileSync("mkfifo", [join(root, "fifo")]);
  await expect(read("fifo")).rejects.toThrow("EINVAL");
});

test("openInRoot returns a descriptor of the inner file", () => {
  const fd = openInRoot(root, "/outside");
  expect(fstatSync(fd).ino).toBe(lstatSync(join(root, "outside")).ino);
  closeSync(fd);
});

test("times keep nanoseconds and years before 1970", () => {
  const file = Buffer.from(join(root, "outside"));
  setTimes(file, { seconds: 1, nanoseconds: 2 }, { seconds: -86400, nanoseconds: 123456789 });
  const stat = statSync(file, { bigint: true });
  expect(stat.mtimeNs).toBe(-86400n * 1_000_000_000n + 123456789n);
});

test("an extended attribute of a raw name and value is read back; an absent one is undefined", () => {
  const file = Buffer.concat([Buffer.from(join(root, "raw-")), Buffer.from([0xff, 0xfe])]);
  writeFileSync(file, "x");
  const value = new Uint8Array([0, 1, 255, 0]);
  setXattr(file, "user.raw", value);
  expect(getXattr(file, "user.raw")).toEqual(value);
  expect(getXattr(file, "user.absent")).toBeUndefined();
});

test("device numbers are encoded as the kernel does", () => {
  expect(deviceNumber(1, 3)).toBe(0x103);
  expect(deviceNumber(0xfff, 0xfffff)).toBe(0xffffffff);
  expect(deviceNumber(259, 1000)).toBe(0xe8 | (259 << 8) | (0x300 << 12));
});

test("mount options that the kernel would cut are refused", () => {
  expect(() => mount({ source: "x", target: "/", type: "x", data: "a".repeat(4096) })).toThrow(
    RangeError,
  );
});

test("capability sets are read by name", () => {
  const sets = readCapabilities(
    "CapPrm:\t0000000000000003\nCapEff:\t0000010000000001\nCapBnd:\t0\n",
  );
  expect(sets).toEqual({
    effective: ["CHOWN", "CHECKPOINT_RESTORE"],
    permitted: ["CHOWN", "DAC_OVERRIDE"],
    bounding: [],
  });
});
