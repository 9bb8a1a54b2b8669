/** ImageFsInfo and what du says, before, while and after something happens. */
import { expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { imageNode } from "../fixtures/image-node.ts";
import { busyboxLayer, pushImage } from "../fixtures/registry.ts";
import type { TarSpec } from "../fixtures/tar.ts";

const node = imageNode();
const noise = (bytes: number) => Buffer.from(crypto.getRandomValues(new Uint8Array(bytes)));

const du = (flag: string): number => {
  const directories = ["layers", "layer-index", "import"].map((name) =>
    join(node.store.root, name),
  );
  const there = directories.filter((directory) => existsSync(directory));
  const total =
    execFileSync("du", ["-sc", flag, ...there])
      .toString()
      .split("\n")
      .at(-2) ?? "";
  return Number.parseInt(total, 10);
};

function said(): { usedBytes: number; inodesUsed: number } {
  const { usedBytes, inodesUsed } = node.store.images.fsInfo();
  return { usedBytes, inodesUsed };
}

const within1Percent = (a: number, b: number) => Math.abs(a - b) <= Math.max(a, b) / 100;
const agree = () =>
  within1Percent(said().usedBytes, du("--block-size=1")) &&
  within1Percent(said().inodesUsed, du("--inodes"));

/** Keeps back the second half of a layer; what `release` is given comes instead of it. */
function holdHalf(digest: string) {
  const gate = Promise.withResolvers<"rest" | "rubbish">();
  node.proxy.intercept = async (_, url) => {
    if (!url.pathname.endsWith(digest)) return undefined;
    const answer = await fetch(`http://${node.registry.host}${url.pathname}`, {
      decompress: false,
    });
    const bytes = new Uint8Array(await answer.arrayBuffer());
    const half = bytes.length / 2;
    const body = new ReadableStream({
      async start(controller) {
        controller.enqueue(bytes.subarray(0, half));
        const rest = bytes.slice(half);
        if ((await gate.promise) === "rubbish") rest.reverse();
        controller.enqueue(rest);
        controller.close();
      },
    });
    return new Response(body, { headers: { "content-length": String(bytes.length) } });
  };
  return { release: gate.resolve };
}

test("what the file system holds is what fsInfo says: links once, lists of files with the layers", async () => {
  const layers = [
    busyboxLayer(),
    [
      { name: "a", data: "z".repeat(10_000) },
      { name: "b", type: "1", linkName: "a" },
    ],
  ];
  const { name } = await pushImage(node.registry, "du:1", { layers });
  await node.store.images.pull(name);
  expect(said()).toEqual({ usedBytes: du("--block-size=1"), inodesUsed: du("--inodes") });
  await node.store.images.remove(name);
  expect(said()).toEqual({ usedBytes: du("--block-size=1"), inodesUsed: du("--inodes") });
});

/** Many directories and small files, and in the middle of the archive a large one. */
const LARGE: TarSpec[] = [
  ...Array.from({ length: 300 }, (_, index): TarSpec[] => [
    { name: `directory-${index}/`, type: "5" },
    { name: `directory-${index}/file`, data: "small" },
    { name: `many/file-${index}`, data: noise(1500) },
  ]).flat(),
  { name: "large", data: noise(12_000_000) },
];

for (const end of ["rest", "rubbish"] as const) {
  const what = end === "rest" ? "pulled" : "given up";
  test(`a layer counts while it is unpacked, and after it is ${what}`, async () => {
    await node.store.images.pull(
      (await pushImage(node.registry, "before:1", { layers: [[]] })).name,
    );
    const before = said();
    const pushed = await pushImage(node.registry, "large:1", {
      layers: [[{ name: "other", data: noise(100_000) }], LARGE],
    });
    const held = holdHalf(pushed.layers[1]?.digest ?? "");
    const pull = node.store.images.pull(node.throughProxy(pushed)).then(
      () => "pulled",
      () => "failed",
    );
    // Half of the bytes are there, and the small files.
    while (!(said().usedBytes > 6_000_000 && agree())) await Bun.sleep(50);
    expect(said().inodesUsed).toBeGreaterThan(900);
    expect(du("--block-size=1")).toBeGreaterThan(6_000_000);
    held.release(end);
    expect(await pull).toBe(end === "rest" ? "pulled" : "failed");
    expect(agree()).toBe(true);
    if (end === "rubbish") expect(said()).toEqual(before);
    else expect(said()).toEqual({ usedBytes: du("--block-size=1"), inodesUsed: du("--inodes") });
    expect((await node.store.reopen()).fsInfo()).toMatchObject(said());
  });
}

test("layers whose deletion was cut off are not counted by the next daemon, and gone", async () => {
  const { name } = await pushImage(node.registry, "cut:1", {
    layers: [[{ name: "a", data: "a" }]],
  });
  const empty = said();
  await node.store.images.pull(name);
  node.store.database.run("DELETE FROM images");
  const [layer = ""] = node.store.layerDirectories();
  for (const name of ["layers", "layer-index"]) {
    rmSync(join(node.store.root, name, layer), { recursive: true });
  }
  expect((await node.store.reopen()).fsInfo()).toMatchObject(empty);
});
