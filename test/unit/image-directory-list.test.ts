import { expect, test } from "bun:test";
import { DirectoryList } from "../../src/image/directory-list.ts";
import { LimitError } from "../../src/image/tar-error.ts";

const time = (seconds: number, nanoseconds = 0) => ({ seconds, nanoseconds });

test("directories come back in their order, with their times", () => {
  const list = new DirectoryList();
  const times = { atime: time(-5), mtime: time(2 ** 40, 999_999_999) };
  const paths = Array.from({ length: 5000 }, (_, n) => Buffer.from([0x2f, 0xff, n >> 8, n & 0xff]));
  for (const [n, path] of paths.entries()) list.add(path, n % 2 === 0 ? times : undefined);
  const back = [...list];
  expect(back.map(({ path }) => path.toString("hex"))).toEqual(
    paths.map((path) => path.toString("hex")),
  );
  expect(back[0]?.times).toEqual(times);
  expect(back[1]?.times).toBeUndefined();
});

test("a list is as long as it may be, and no longer", () => {
  const list = new DirectoryList(100_000);
  const path = Buffer.alloc(973, "x");
  for (let n = 0; n < 100; n++) list.add(path);
  expect(() => list.add(path)).toThrow(LimitError);
  expect([...list]).toHaveLength(100);
});
