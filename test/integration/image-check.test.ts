import { beforeAll, beforeEach, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  chownSync,
  existsSync,
  lutimesSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beginSession, endSession, wasCutOff } from "../../src/cli/session.ts";
import type { Image } from "../../src/image/images.ts";
import { setXattr } from "../../src/linux/file.ts";
import { skopeo } from "../fixtures/archives.ts";
import { imageNode } from "../fixtures/image-node.ts";
import { EXECUTABLE } from "../fixtures/image-store.ts";
import { type Pushed, pushImage } from "../fixtures/registry.ts";
import type { TarSpec } from "../fixtures/tar.ts";

const node = imageNode();
let pushed: Pushed;
let image: Image;

const CAPABILITY = Buffer.from("0100000200200000000000000000000000000000", "hex");
const OTHER_CAPABILITY = Buffer.from("0100000200400000000000000000000000000000", "hex");

/** Of all kinds that a layer can have. */
const BASE: TarSpec[] = [
  { name: "etc/", type: "5", mode: 0o750, uid: 3 },
  { name: "etc/file", data: "x".repeat(5000), uid: 5, gid: 6, mode: 0o4755 },
  { name: "etc/link", type: "2", linkName: "file" },
  { name: "etc/hard", type: "1", linkName: "etc/file" },
  { name: "dev/null", type: "3", major: 1, minor: 3 },
  { name: "dev/pipe", type: "6" },
  { name: "implicit/deep/file", data: "y" },
  { name: Buffer.from([0x62, 0xff, 0x0a, 0x22]), data: "a name that is no UTF-8" },
  { name: "twice", data: "first" },
  { name: "twice", data: "second" },
  { name: "was-directory/", type: "5" },
  { name: "was-directory/file", data: "gone" },
  { name: "was-directory", data: "now a file" },
  { name: ".wh.removed", data: "" },
  { name: "opaque/.wh..wh..opq", data: "" },
  { name: "empty", data: "" },
  { name: "replaced", data: "old" },
  { name: "hard-to-replaced", type: "1", linkName: "replaced" },
  { name: "capable", data: "c", pax: { "SCHILY.xattr.security.capability": CAPABILITY } },
  { name: "replaced", data: "new" },
  { name: "usr/bin/", type: "5" },
  { name: "usr/bin/first", data: "1" },
  { name: "bin", type: "2", linkName: "usr/bin" },
  { name: "bin/second", data: "2" },
  { name: "usr/sbin", type: "2", linkName: "../bin" },
  { name: "usr/sbin/third", data: "3" },
  { name: "hard-through-link", type: "1", linkName: "bin/second" },
  { name: "top-link", type: "2", linkName: "/" },
  { name: "top-link/usr/fourth", data: "4" },
];

beforeAll(async () => {
  pushed = await pushImage(node.registry, "checked:1", {
    layers: [BASE, [{ name: "top", data: "t" }]],
  });
});
beforeEach(async () => {
  image = await node.store.images.pull(`${node.proxy.host}/checked:1`);
});

/** The directory of a layer, the base first. */
function directoryOf(position: number): string {
  const row = node.store.database
    .query("SELECT directory FROM layers WHERE chain_id = ?")
    .get(image.layers[position] ?? "") as { directory: string };
  return join(node.store.root, "layers", row.directory);
}
const base = (name: string) => join(directoryOf(0), name);
const blobGets = () => node.proxy.requests.filter((line) => line.includes("/blobs/"));
const look = (fast: boolean) => node.store.images.check({ fast, repair: false });
const tree = (directory: string) =>
  execFileSync(
    "sh",
    [
      "-c",
      "find . -printf '%P %y %m %U %G %n %l\\n' | LC_ALL=C sort; find . -type f -exec sha256sum {} + | sort",
    ],
    { cwd: directory },
  ).toString("latin1");

test("layers that nothing happened to are whole, whatever is in them", async () => {
  expect(await look(true)).toEqual({ checkedLayers: 2, damaged: [] });
  expect(await look(false)).toEqual({ checkedLayers: 2, damaged: [] });
});

const damages: Array<[string, () => void, string, boolean]> = [
  ["a missing file", () => unlinkSync(base("etc/file")), "is missing", true],
  ["a file cut short", () => truncateSync(base("etc/file"), 0), "has 0 bytes, not 5000", true],
  ["a longer file", () => appendFileSync(base("implicit/deep/file"), "z"), "has 2 bytes", true],
  ["a changed file", () => writeFileSync(base("implicit/deep/file"), "Y"), "other content", false],
  ["another mode", () => chmodSync(base("etc/file"), 0o755), "another mode", true],
  ["another owner", () => chownSync(base("etc"), 0, 0), "another owner", true],
  ["a missing directory", () => rmSync(base("implicit"), { recursive: true }), "is missing", true],
  ["an additional file", () => writeFileSync(base("implicit/more"), ""), "is no part", true],
  [
    "a link that leads elsewhere",
    () => {
      unlinkSync(base("etc/link"));
      symlinkSync("other", base("etc/link"));
    },
    "leads elsewhere",
    true,
  ],
  [
    "a file instead of a device",
    () => {
      unlinkSync(base("dev/null"));
      writeFileSync(base("dev/null"), "");
    },
    "something else",
    true,
  ],
  [
    "a lost opaque mark",
    () => {
      rmSync(base("opaque"), { recursive: true });
      mkdirSync(base("opaque"));
      chmodSync(base("opaque"), 0o755);
    },
    "lost its attribute trusted.overlay.opaque",
    true,
  ],
  [
    "another capability",
    () => setXattr(base("capable"), "security.capability", OTHER_CAPABILITY),
    "another attribute security.capability",
    true,
  ],
  [
    "a changed file in the place of a hard link",
    () => {
      unlinkSync(base("hard-to-replaced"));
      writeFileSync(base("hard-to-replaced"), "OLD", { mode: 0o644 });
    },
    "other content",
    false,
  ],
  ["a lost whiteout", () => unlinkSync(base("removed")), "is missing", true],
  [
    "a directory instead of a file",
    () => {
      renameSync(base("dev"), base("empty2"));
      rmSync(base("empty"));
      renameSync(base("empty2"), base("empty"));
    },
    "is no file",
    true,
  ],
  [
    "a lost list of files",
    () => rmSync(join(node.store.root, "layer-index", directoryOf(0).slice(-12))),
    "list of files",
    true,
  ],
  ["a missing layer", () => rmSync(directoryOf(0), { recursive: true }), "is missing", true],
  [
    "a link in the place of a layer",
    () => {
      const directory = directoryOf(0);
      rmSync(directory, { recursive: true });
      symlinkSync(directoryOf(1), directory);
    },
    "is no directory",
    true,
  ],
];
test.each(damages)(
  "%s is found and repaired, that layer alone",
  async (_, damage, problem, fast) => {
    const whole = [0, 1].map((position) => tree(directoryOf(position)));
    damage();
    const top = directoryOf(1);
    const found = await look(fast);
    expect(found.damaged).toHaveLength(1);
    expect(found.damaged[0]).toMatchObject({ chainId: image.layers[0] ?? "", repaired: false });
    expect(found.damaged[0]?.problems.join()).toContain(problem);
    const before = blobGets().length;
    const repaired = await node.store.images.check({ fast, repair: true });
    expect(repaired.damaged).toMatchObject([{ repaired: true, reason: "" }]);
    expect(blobGets().slice(before)).toEqual([`GET /v2/checked/blobs/${pushed.layers[0]?.digest}`]);
    expect([0, 1].map((position) => tree(directoryOf(position)))).toEqual(whole);
    expect(directoryOf(1)).toBe(top);
    expect(node.store.layerDirectories()).toHaveLength(2);
    expect(readdirSync(join(node.store.root, "layer-index"))).toHaveLength(2);
    expect(await look(false)).toEqual({ checkedLayers: 2, damaged: [] });
  },
);

test("what an archive puts through a symlink of its own is looked for where it went", async () => {
  writeFileSync(base("usr/bin/third"), "E");
  unlinkSync(base("usr/fourth"));
  const { damaged } = await look(false);
  expect(damaged[0]?.problems).toEqual([
    '"usr/bin/third": has other content',
    '"usr/fourth": is missing',
  ]);
});

test("of a missing or replaced directory only itself is told, and of many problems ten", async () => {
  rmSync(base("usr"), { recursive: true });
  rmSync(base("implicit"), { recursive: true });
  symlinkSync(base("etc"), base("implicit"));
  const problems = async () => (await look(true)).damaged[0]?.problems;
  expect(await problems()).toEqual(['"implicit": is no directory', '"usr": is missing']);
  for (let count = 0; count < 20; count++) writeFileSync(base(`more${count}`), "");
  expect(await problems()).toHaveLength(10);
});

test("a fast check does not read files: times and content of the same length pass", async () => {
  writeFileSync(base("implicit/deep/file"), "Y");
  lutimesSync(base("twice"), 1, 1);
  expect((await look(true)).damaged).toEqual([]);
  expect((await look(false)).damaged).toHaveLength(1);
});

test("what cannot be had again stays as it is, and the report says why", async () => {
  unlinkSync(base("etc/file"));
  const directory = directoryOf(0);
  await node.proxy.stop();
  const report = await node.store.images.check({ fast: true, repair: true });
  expect(report.damaged).toMatchObject([{ repaired: false }]);
  expect(report.damaged[0]?.reason).not.toBe("");
  expect(directoryOf(0)).toBe(directory);
  expect(node.store.layerDirectories()).toHaveLength(2);
  expect(node.store.images.list()).toHaveLength(1);
});

test("a damaged layer of an imported image comes from its archive", async () => {
  const archives = mkdtempSync(join(tmpdir(), "crib-archives-"));
  try {
    const made = await pushImage(node.registry, "archived:1", {
      layers: [[{ name: "only", data: "here" }]],
    });
    for (const [kind, name] of [
      ["docker-archive", "a.tar"],
      ["oci", "layout"],
    ]) {
      const flags = ["--insecure-policy", "--src-tls-verify=false", `docker://${made.name}`];
      execFileSync("skopeo", [
        "copy",
        "-q",
        ...flags,
        `${kind}:${join(archives, name ?? "")}:example.com/a:1`,
      ]);
      await node.store.images.remove(image.id);
      image = (await node.store.images.import(join(archives, name ?? "")))[0] ?? image;
      writeFileSync(base("only"), "lost");
      const report = await node.store.images.check({ fast: false, repair: true });
      expect(report.damaged).toMatchObject([{ repaired: true }]);
      expect(readFileSync(base("only"), "utf8")).toBe("here");
    }
  } finally {
    rmSync(archives, { recursive: true });
  }
});

test("a damaged layer comes from its archive also when another image there is broken or for another machine", async () => {
  const archive = mkdtempSync(join(tmpdir(), "crib-archives-"));
  try {
    const broken = await pushImage(node.registry, "broken:1", {
      layers: [[{ name: "broken", data: "broken" }]],
    });
    const foreign = await pushImage(node.registry, "foreign:1", {
      layers: [],
      alterConfig: (config) => {
        config.os = "windows";
      },
    });
    const wanted = await pushImage(node.registry, "wanted:1", {
      layers: [[{ name: "only", data: "here" }]],
    });
    skopeo(broken.name, `oci:${archive}:example.com/broken:1`);
    skopeo(wanted.name, `oci:${archive}:example.com/wanted:1`);
    await node.store.images.remove(image.id);
    image = (await node.store.images.import(archive))[1] ?? image;
    expect(image.id).toBe(wanted.id);
    skopeo(foreign.name, `oci:${archive}:example.com/foreign:1`);
    const blob = ({ id }: Pushed) => join(archive, "blobs", id.replace(":", "/"));
    unlinkSync(blob(broken));
    const repaired = async () => {
      writeFileSync(base("only"), "lost");
      return (await node.store.images.check({ fast: false, repair: true })).damaged;
    };
    expect(await repaired()).toMatchObject([{ repaired: true, reason: "" }]);
    expect(readFileSync(base("only"), "utf8")).toBe("here");
    const [{ digest } = { digest: "" }] = wanted.layers;
    unlinkSync(blob({ ...wanted, id: digest }));
    const [failed] = await repaired();
    expect(failed).toMatchObject({ repaired: false });
    expect(failed?.reason).toContain(digest.replace(":", "/"));
  } finally {
    rmSync(archive, { recursive: true });
  }
});

test("a layer that one of its images' sources cannot give comes from another", async () => {
  const archives = mkdtempSync(join(tmpdir(), "crib-archives-"));
  try {
    const flags = ["--insecure-policy", "--src-tls-verify=false"];
    const archive = join(archives, "a.tar");
    execFileSync("skopeo", [
      ...["copy", "-q", ...flags],
      ...[`docker://${pushed.name}`, `oci-archive:${archive}:example.com/a:1`],
    ]);
    expect((await node.store.images.import(archive))[0]?.id).toBe(image.id);
    const damage = () => writeFileSync(base("implicit/deep/file"), "Y");
    const repair = () => node.store.images.check({ fast: false, repair: true });
    damage();
    await node.proxy.stop();
    expect((await repair()).damaged).toMatchObject([{ repaired: true, reason: "" }]);
    expect(readFileSync(base("implicit/deep/file"), "utf8")).toBe("y");
    damage();
    writeFileSync(archive, "no archive");
    const [failed] = (await repair()).damaged;
    expect(failed).toMatchObject({ repaired: false });
    expect(failed?.reason).toContain("a.tar");
    expect(failed?.reason).toContain(node.proxy.host);
  } finally {
    rmSync(archives, { recursive: true });
  }
});

test("layers that are removed or replaced while they are checked are no damage", async () => {
  const script = join(node.store.directory, "slow-check");
  const [gate, begun] = ["gate", "begun"].map((name) => join(node.store.directory, name));
  // Says that all are damaged, but not before the gate is open.
  writeFileSync(
    script,
    `[ "$1" = check-layers ] || exec ${EXECUTABLE.join(" ")} "$@"
     names=$(cat)
     touch ${begun}
     while [ ! -e ${gate} ]; do sleep 0.02; done
     for name in $names; do echo "{\\"name\\":\\"$name\\",\\"problems\\":[\\"is missing\\"]}"; done`,
  );
  const images = await node.store.reopen(["/bin/sh", script]);
  const checking = images.check({ fast: true, repair: true });
  while (!existsSync(begun ?? "")) await Bun.sleep(5);
  await images.remove(image.id);
  writeFileSync(gate ?? "", "");
  expect(await checking).toEqual({ checkedLayers: 0, damaged: [] });
  expect(blobGets()).toHaveLength(pushed.layers.length + 1);
});

test("a check that is given up ends", async () => {
  const hanging = await node.store.reopen(["/bin/sh", "-c", "exec sleep 1000"]);
  const checked = hanging.check({ fast: true, repair: true }, AbortSignal.timeout(50));
  await expect(checked).rejects.toThrow();
});

/** As when the repair of a file system has taken the directory while no daemon ran. */
async function loseAtStart(): Promise<void> {
  rmSync(directoryOf(0), { recursive: true });
  node.store.images = await node.store.reopen();
}

test("a layer whose directory is missing at start is repaired, from the registry and from an archive", async () => {
  const whole = tree(directoryOf(0));
  await loseAtStart();
  const repair = () => node.store.images.check({ fast: true, repair: true });
  const before = blobGets().length;
  expect((await repair()).damaged).toMatchObject([{ repaired: true, reason: "" }]);
  expect(blobGets().slice(before)).toEqual([`GET /v2/checked/blobs/${pushed.layers[0]?.digest}`]);
  expect(tree(directoryOf(0))).toBe(whole);
  const archives = mkdtempSync(join(tmpdir(), "crib-archives-"));
  try {
    skopeo(pushed.name, `docker-archive:${join(archives, "a.tar")}:example.com/a:1`);
    await node.store.images.remove(image.id);
    await node.store.images.import(join(archives, "a.tar"));
    await loseAtStart();
    expect((await repair()).damaged).toMatchObject([{ repaired: true, reason: "" }]);
    expect(tree(directoryOf(0))).toBe(whole);
  } finally {
    rmSync(archives, { recursive: true });
  }
});

test("where a missing layer cannot be had, its image stays, and a pull brings that layer alone", async () => {
  const { rootfs } = await node.store.storage.prepare("running", image.layers);
  const whole = tree(directoryOf(0));
  await loseAtStart();
  await node.proxy.stop();
  const { images } = node.store;
  const report = await images.check({ fast: true, repair: true });
  expect(report.damaged).toMatchObject([{ problems: ['"": is missing'], repaired: false }]);
  expect(images.list()).toEqual([image]);
  expect(images.isWhole(image)).toBe(false);
  expect(() => images.requireWhole(image, "app")).toThrow(`app: the directory of its layer`);
  expect(() => images.requireWhole(image, "app")).toThrow(image.layers[0]);
  const top = directoryOf(1);
  const mended = await images.pull(pushed.name);
  expect(mended.repoTags).toEqual([...image.repoTags, pushed.name].sort());
  expect(images.isWhole(mended)).toBe(true);
  expect(tree(directoryOf(0))).toBe(whole);
  expect(directoryOf(1)).toBe(top);
  expect(readFileSync(join(rootfs, "top"), "utf8")).toBe("t");
  await node.store.storage.remove("running");
  expect(node.store.layerDirectories()).toHaveLength(2);
  expect(node.store.database.query("SELECT * FROM layers").all()).toHaveLength(2);
  expect(await look(false)).toEqual({ checkedLayers: 2, damaged: [] });
});

test("a check and a pull that bring the same missing layer leave one of it", async () => {
  await loseAtStart();
  const { images } = node.store;
  await Promise.all([
    images.check({ fast: true, repair: true }),
    images.pull(image.repoTags[0] ?? ""),
    images.pull(pushed.name),
  ]);
  expect(node.store.layerDirectories()).toHaveLength(2);
  expect(await look(false)).toEqual({ checkedLayers: 2, damaged: [] });
});

test("a container that runs keeps its files while its layer is repaired, also over a restart", async () => {
  const { rootfs } = await node.store.storage.prepare("running", image.layers);
  const old = directoryOf(0);
  writeFileSync(base("twice"), "SECOND");
  await node.store.images.check({ fast: false, repair: true });
  expect(directoryOf(0)).not.toBe(old);
  expect(readFileSync(join(rootfs, "etc/file"), "utf8")).toBe("x".repeat(5000));
  node.store.images = await node.store.reopen();
  expect(readFileSync(join(rootfs, "etc/file"), "utf8")).toBe("x".repeat(5000));
  expect(await look(false)).toEqual({ checkedLayers: 2, damaged: [] });
  await node.store.storage.unmount("running");
  node.store.storage.mount("running", image.layers);
  expect(readFileSync(join(rootfs, "twice"), "utf8")).toBe("second");
  await node.store.storage.remove("running");
  expect(node.store.layerDirectories()).toHaveLength(2);
});

test("a machine that went down with the daemon is noticed; a daemon that was killed alone is not", () => {
  const root = node.store.directory;
  expect(wasCutOff(root, "boot-1")).toBe(false);
  beginSession(root, "boot-1");
  expect(wasCutOff(root, "boot-1")).toBe(false);
  expect(wasCutOff(root, "boot-2")).toBe(true);
  // Until its check has ended: a daemon that is killed meanwhile leaves it to the next one.
  expect(wasCutOff(root, "boot-2")).toBe(true);
  beginSession(root, "boot-2");
  expect(wasCutOff(root, "boot-2")).toBe(false);
  endSession(root);
  expect(wasCutOff(root, "boot-3")).toBe(false);
});
