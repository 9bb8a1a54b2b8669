/** Layers with paths as long as Linux allows: in an image, and longer than that on the node. */
import { expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { imageNode } from "../fixtures/image-node.ts";
import { pushImage } from "../fixtures/registry.ts";
import type { TarSpec } from "../fixtures/tar.ts";

const node = imageNode();

/** With "/" before it and the zero byte behind it these are the 4,096 bytes of PATH_MAX. */
const PATH_BYTES = 4094;

/** A path of exactly `PATH_BYTES`, of names as long as `nameBytes` says; the last one may be shorter. */
const longPath = (nameBytes: number) =>
  `${"x".repeat(nameBytes)}/`
    .repeat(PATH_BYTES)
    .slice(0, PATH_BYTES - 1)
    .concat("f");

const entry = (path: string, spec: Omit<TarSpec, "name"> = {}): TarSpec => ({
  name: "long",
  ...spec,
  pax: { path, ...spec.pax },
});

/** Runs a command in the deepest directory of the layer's only file, which no path leads to. */
function inDeepest(script: string): string {
  const [directory = ""] = node.store.layerDirectories();
  const walk = 'while d=$(ls -d */ 2>/dev/null) && [ -n "$d" ]; do cd -P "./$d" || exit 1; done;';
  const cwd = join(node.store.root, "layers", directory);
  return execFileSync("sh", ["-c", `${walk} ${script}`], { cwd }).toString();
}

test.each([
  ["long names", 255],
  ["shorter names", 15],
])("a path of 4,095 bytes, of %s, is unpacked, found whole, and deleted", async (_, nameBytes) => {
  const path = longPath(nameBytes);
  const attributes = { "SCHILY.xattr.user.attribute": "value" };
  const pushed = await pushImage(node.registry, `long-${nameBytes}:1`, {
    layers: [[entry(path, { data: "deep", pax: attributes })], [{ name: "top", data: "t" }]],
  });
  const { images, storage } = node.store;
  const image = await images.pull(pushed.name);
  const look = async () => (await images.check({ fast: false, repair: false })).damaged;
  expect(await look()).toEqual([]);
  const { rootfs } = await storage.prepare("mounted", image.layers);
  expect(execFileSync("cat", ["top"], { cwd: rootfs }).toString()).toBe("t");
  await storage.remove("mounted");
  await images.remove(image.id);
  expect(node.store.layerDirectories()).toEqual([]);
});

test("what is wrong with a file of such a path is found and repaired", async () => {
  const links = { type: "2", linkName: "target" };
  const path = longPath(255);
  const pushed = await pushImage(node.registry, "long-damaged:1", {
    layers: [[entry(path, { data: "deep" }), entry(path.slice(0, -2), links)]],
  });
  const { images } = node.store;
  await images.pull(pushed.name);
  const check = async (repair: boolean) => (await images.check({ fast: false, repair })).damaged;
  expect(await check(false)).toEqual([]);
  inDeepest("for file in *f; do printf DEEP > $file; done");
  expect(await check(false)).toMatchObject([
    { problems: [expect.stringContaining("other content")] },
  ]);
  expect(await check(true)).toMatchObject([{ repaired: true }]);
  expect(inDeepest("cat *f")).toBe("deep");
  expect(node.store.layerDirectories()).toHaveLength(1);
});
