import { afterAll, afterEach, beforeAll, beforeEach, expect, spyOn, test } from "bun:test";
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import type { Image } from "../../src/image/images.ts";
import { mount, unmount } from "../../src/linux/mount.ts";
import { log } from "../../src/observe/log.ts";
import { makeArchives, skopeo } from "../fixtures/archives.ts";
import { openTestStore, type TestStore } from "../fixtures/image-store.ts";
import {
  type Pushed,
  pushImage,
  pushIndex,
  type Registry,
  startRegistry,
} from "../fixtures/registry.ts";
import { tarball } from "../fixtures/tar.ts";

let registry: Registry;
let archives: string;
let one: Pushed;
let store: TestStore;
const at = (name: string) => join(archives, name);

beforeAll(async () => {
  registry = await startRegistry();
  ({ directory: archives, one } = await makeArchives(registry));
  writeFileSync(at("oci.tar.gz"), gzipSync(readFileSync(at("oci.tar"))));
  writeFileSync(at("docker.tar.zst"), zstdCompressSync(readFileSync(at("docker.tar"))));
});
afterAll(async () => {
  await registry.stop();
  rmSync(archives, { recursive: true });
});
beforeEach(async () => {
  store = await openTestStore();
});
afterEach(() => store.close());

async function readBoth(image: Image): Promise<string> {
  const { rootfs } = await store.storage.prepare("reader", image.layers);
  try {
    return readFileSync(join(rootfs, "a"), "utf8") + readFileSync(join(rootfs, "b"), "utf8");
  } finally {
    await store.storage.remove("reader");
  }
}
const nothingLeft = () => {
  expect(store.images.list()).toEqual([]);
  expect(store.layerDirectories()).toEqual([]);
  const scratch = join(store.root, "import");
  expect(existsSync(scratch) ? readdirSync(scratch) : []).toEqual([]);
};

test.each(["layout", "oci.tar", "oci.tar.gz", "docker.tar", "docker.tar.zst"])(
  "%s is imported under its own name, and is the image that a pull brings",
  async (file) => {
    const [image, ...more] = await store.images.import(at(file));
    if (image === undefined) throw new Error("nothing imported");
    expect(more).toEqual([]);
    expect(image).toMatchObject({ id: one.id, repoTags: ["example.com/one:1"], pinned: false });
    expect(store.images.documents.run(image.id).Cmd).toEqual(["x"]);
    expect(await readBoth(image)).toBe("firstsecond");
    expect(store.images.find("example.com/one:1")?.id).toBe(one.id);
    const before = store.layerDirectories().length;
    await store.images.pull(one.name);
    expect(store.layerDirectories()).toHaveLength(before);
    expect(store.images.list()).toHaveLength(1);
    await store.images.remove(one.id);
    nothingLeft();
  },
);

test("from a layout the digest is a name too; a bare tag needs a name to belong to", async () => {
  const [image] = await store.images.import(at("layout"));
  expect(image?.repoDigests).toHaveLength(1);
  expect(store.images.find(image?.repoDigests[0] ?? "")?.id).toBe(one.id);
  skopeo(one.name, `oci:${at("tagged")}:v7`);
  await store.images.remove(one.id);
  expect((await store.images.import(at("tagged")))[0]?.repoTags).toEqual([]);
  const named = await store.images.import(at("tagged"), { name: "busy" });
  expect(named[0]?.repoTags).toEqual(["docker.io/library/busy:v7"]);
  const exact = await store.images.import(at("tagged"), { name: "busy:x" });
  expect(exact[0]?.repoTags).toEqual(["docker.io/library/busy:v7", "docker.io/library/busy:x"]);
});

test("of several platforms this machine's is taken, and several images are all taken", async () => {
  const two = await pushImage(registry, "two:1", { layers: [[{ name: "c", data: "two" }]] });
  const architecture = process.arch === "arm64" ? "arm64" : "amd64";
  const entry = ({ digest, size, mediaType }: Pushed, arch: string) => ({
    digest,
    size,
    mediaType,
    platform: { os: "linux", architecture: arch },
  });
  const other = await pushImage(registry, "two:other", {
    layers: [[{ name: "d", data: "not mine" }]],
    alterConfig: (config) => {
      config.architecture = "s390x";
    },
  });
  const index = await pushIndex(registry, "two:multi", [
    entry(other, "s390x"),
    entry(two, architecture),
  ]);
  skopeo(index.name, `oci:${at("multi")}:example.com/multi:1`, "--all");
  skopeo(one.name, `oci:${at("multi")}:example.com/one:2`);
  const images = await store.images.import(at("multi"));
  expect(images.map(({ repoTags }) => repoTags).sort()).toEqual([
    ["example.com/multi:1"],
    ["example.com/one:2"],
  ]);
  expect(images.map(({ id }) => id).sort()).toEqual([one.id, two.id].sort());
});

/** A layout whose index says what each image is for: "NAME linux/amd64/v3", with "" as a name for none. */
async function layoutFor(
  entries: readonly string[],
): Promise<{ directory: string; ids: string[] }> {
  const directory = join(store.directory, "platforms");
  mkdirSync(directory);
  const pushed = [];
  for (const [index, entry] of entries.entries()) {
    const layers = [[{ name: "for", data: `${index} ${entry}` }]];
    pushed.push(await pushImage(registry, `for-${index}:1`, { layers }));
    skopeo(pushed[index]?.name ?? "", `oci:${directory}:${index}`);
  }
  const file = join(directory, "index.json");
  const { manifests, ...rest } = JSON.parse(readFileSync(file, "utf8"));
  const changed = entries.map((entry, index) => {
    const [name, platform = ""] = entry.split(" ");
    const [os, architecture, variant] = platform.split("/");
    return {
      ...manifests[index],
      annotations: name === "" ? {} : { "org.opencontainers.image.ref.name": name },
      ...(platform === "" ? {} : { platform: { os, architecture, variant } }),
    };
  });
  writeFileSync(file, JSON.stringify({ ...rest, manifests: changed }));
  return { directory, ids: pushed.map(({ id }) => id) };
}
const MACHINE = process.arch === "arm64" ? "arm64" : "amd64";

test.each([
  [
    "a variant, an operating system and a machine that are not this one's",
    [
      "example.com/a:1 windows/HERE",
      "example.com/a:1 linux/HERE",
      "example.com/a:1 linux/HERE/v99",
      "example.com/a:1 linux/s390x",
    ],
    [1],
  ],
  [
    "a name of its own for each",
    ["example.com/a:1 linux/HERE", "example.com/b:1 linux/HERE"],
    [0, 1],
  ],
  ["no platform beside this one", ["example.com/a:1 linux/HERE", "example.com/a:1"], [0]],
  ["no platform beside another one", ["example.com/a:1", "example.com/a:1 linux/s390x"], [0]],
  ["no names", [" linux/HERE", " windows/HERE", " ", " unknown/unknown"], [0, 2]],
])("of an index with %s the right images are imported", async (_, entries, expected) => {
  const { directory, ids } = await layoutFor(entries.map((it) => it.replace("HERE", MACHINE)));
  const images = await store.images.import(directory);
  expect(images.map(({ id }) => ids.indexOf(id))).toEqual(expected);
  expect(store.images.list()).toHaveLength(expected.length);
  const named = entries[expected[0] ?? 0]?.startsWith("example.com/a:1");
  if (named) expect(images[0]?.repoTags).toEqual(["example.com/a:1"]);
});

test("an index with nothing for this machine is refused, and says what it is for", async () => {
  const { directory } = await layoutFor([`example.com/a:1 windows/${MACHINE}`]);
  await expect(store.images.import(directory)).rejects.toThrow(
    `no image for linux/${MACHINE} in it`,
  );
  nothingLeft();
});

test("an image that says that it is for another machine comes with a warning, for some say so wrongly", async () => {
  const foreign = await pushImage(registry, "foreign:1", {
    layers: [[{ name: "f", data: "foreign" }]],
    alterConfig: (config) => {
      config.architecture = "s390x";
    },
  });
  skopeo(foreign.name, `oci:${at("foreign")}:example.com/foreign:1`);
  skopeo(foreign.name, `docker-archive:${at("foreign.tar")}:example.com/foreign:1`);
  const warn = spyOn(log(), "warn");
  try {
    const told = () => warn.mock.calls.map(([fields]) => fields);
    await store.images.pull(foreign.name);
    const fields = { image: "s390x", machine: MACHINE };
    expect(told()).toMatchObject([fields]);
    await store.images.import(at("foreign"));
    await store.images.import(at("foreign.tar"));
    expect(told()).toMatchObject([fields, fields, fields]);
    await store.images.pull(one.name);
    expect(warn).toHaveBeenCalledTimes(3);
  } finally {
    warn.mockRestore();
  }
});

function copyOfLayout(change: (directory: string) => void): string {
  const copy = join(store.directory, "copy");
  rmSync(copy, { recursive: true, force: true });
  cpSync(at("layout"), copy, { recursive: true });
  change(copy);
  return copy;
}
const blobPath = (directory: string, digest = "") =>
  join(directory, "blobs", digest.replace(":", "/"));
const digestsOf = (directory: string) => {
  const names = readdirSync(join(directory, "blobs/sha256"));
  const index = JSON.parse(readFileSync(join(directory, "index.json"), "utf8"));
  const manifest = JSON.parse(readFileSync(blobPath(directory, index.manifests[0].digest), "utf8"));
  expect(names.length).toBeGreaterThan(3);
  return {
    manifest: index.manifests[0].digest as string,
    layer: manifest.layers[0].digest as string,
  };
};

test.each<[string, (directory: string) => void, string]>([
  [
    "a changed layer",
    (d) =>
      writeFileSync(
        blobPath(d, digestsOf(d).layer),
        Buffer.alloc(readFileSync(blobPath(d, digestsOf(d).layer)).length),
      ),
    "DataLoss",
  ],
  ["a layer cut short", (d) => truncateSync(blobPath(d, digestsOf(d).layer), 30), "Unavailable"],
  ["a longer layer", (d) => appendFileSync(blobPath(d, digestsOf(d).layer), "more"), "DataLoss"],
  ["a missing layer", (d) => rmSync(blobPath(d, digestsOf(d).layer)), "FailedPrecondition"],
  [
    "a changed manifest",
    (d) => appendFileSync(blobPath(d, digestsOf(d).manifest), " "),
    "DataLoss",
  ],
  [
    "a manifest that is a link to the host",
    (d) => {
      const path = blobPath(d, digestsOf(d).manifest);
      rmSync(path);
      symlinkSync("/etc/passwd", path);
    },
    "FailedPrecondition",
  ],
  [
    "an index with a path as digest",
    (d) =>
      writeFileSync(join(d, "index.json"), '{"manifests":[{"digest":"sha256:../../etc/passwd"}]}'),
    "FailedPrecondition",
  ],
  [
    "an index that is no JSON",
    (d) => writeFileSync(join(d, "index.json"), "{"),
    "FailedPrecondition",
  ],
  [
    "an index of nothing",
    (d) => writeFileSync(join(d, "index.json"), '{"manifests":[]}'),
    "FailedPrecondition",
  ],
  ["no index", (d) => rmSync(join(d, "index.json")), "FailedPrecondition"],
])("%s is refused, and nothing is left", async (_, change, code) => {
  await expect(store.images.import(copyOfLayout(change))).rejects.toMatchObject({ code });
  nothingLeft();
});

const saved = (list: unknown, more: Parameters<typeof tarball>[0] = []) => {
  const file = join(store.directory, "made.tar");
  writeFileSync(file, tarball([{ name: "manifest.json", data: JSON.stringify(list) }, ...more]));
  return file;
};
test.each<[string, () => string, string]>([
  ["a tar without an image", () => saved([]), "FailedPrecondition"],
  [
    "a tar whose files are missing",
    () => saved([{ Config: "c", Layers: [] }]),
    "FailedPrecondition",
  ],
  [
    "a link that leads out",
    () =>
      saved(
        [{ Config: "c", Layers: [] }],
        [{ name: "c", type: "2", linkName: "../../etc/passwd" }],
      ),
    "FailedPrecondition",
  ],
  [
    "links in a circle",
    () =>
      saved(
        [{ Config: "c", Layers: [] }],
        [
          { name: "c", type: "2", linkName: "d" },
          { name: "d", type: "2", linkName: "c" },
        ],
      ),
    "FailedPrecondition",
  ],
  [
    "fewer layers than diffIDs",
    () =>
      saved(
        [{ Config: "c", Layers: [] }],
        [
          {
            name: "c",
            data: `{"rootfs":{"type":"layers","diff_ids":["sha256:${"a".repeat(64)}"]}}`,
          },
        ],
      ),
    "FailedPrecondition",
  ],
  [
    "a layer with another diffID",
    () =>
      saved(
        [{ Config: "c", Layers: ["l"] }],
        [
          {
            name: "c",
            data: `{"rootfs":{"type":"layers","diff_ids":["sha256:${"a".repeat(64)}"]}}`,
          },
          { name: "l", data: tarball([]) },
        ],
      ),
    "DataLoss",
  ],
  [
    "a file that claims to be longer than the archive",
    () => saved([{ Config: "c", Layers: [] }], [{ name: "c", size: 2 ** 30 }]),
    "FailedPrecondition",
  ],
  [
    "more layers than an image may have",
    () => {
      const diff_ids = Array(257).fill(`sha256:${"a".repeat(64)}`);
      const config = JSON.stringify({ rootfs: { type: "layers", diff_ids } });
      const list = [{ Config: "c", Layers: Array(257).fill("l") }];
      const files = [
        { name: "c", data: config },
        { name: "l", data: tarball([]) },
      ];
      return saved(list, files);
    },
    "FailedPrecondition",
  ],
  [
    "an image of more names than an archive may have",
    () =>
      saved([
        { Config: "c", RepoTags: Array.from({ length: 1001 }, (_, n) => `x:${n}`), Layers: [] },
      ]),
    "FailedPrecondition",
  ],
  ["a name with ..", () => saved([], [{ name: "../x", data: "x" }]), "FailedPrecondition"],
  [
    "no tar",
    () => {
      const f = join(store.directory, "junk");
      writeFileSync(f, Buffer.alloc(2000, 7));
      return f;
    },
    "FailedPrecondition",
  ],
  [
    "an empty file",
    () => {
      const f = join(store.directory, "empty");
      writeFileSync(f, "");
      return f;
    },
    "FailedPrecondition",
  ],
  [
    "gzip cut off",
    () => {
      const f = join(store.directory, "cut");
      writeFileSync(f, readFileSync(at("oci.tar.gz")).subarray(0, 600));
      return f;
    },
    "FailedPrecondition",
  ],
  ["nothing", () => join(store.directory, "absent"), "NotFound"],
  ["a device", () => "/dev/null", "FailedPrecondition"],
])("%s is refused, and nothing is left", async (_, make, code) => {
  await expect(store.images.import(make())).rejects.toMatchObject({ code });
  nothingLeft();
});

test("the policy's defaults for archives hold", async () => {
  const policy = {
    default: [{ type: "insecureAcceptAnything" }],
    transports: { oci: { "": [{ type: "reject" }] } },
  };
  writeFileSync(join(store.directory, "policy.json"), JSON.stringify(policy));
  await expect(store.images.import(at("layout"))).rejects.toMatchObject({
    code: "PermissionDenied",
  });
  expect(await store.images.import(at("docker.tar"))).toHaveLength(1);
});

test("a policy that lets archives be used, and nothing else, lets containers be made of their images", async () => {
  const file = join(store.directory, "policy.json");
  const policy = (transports: object) =>
    writeFileSync(file, JSON.stringify({ default: [{ type: "reject" }], transports }));
  const accept = [{ type: "insecureAcceptAnything" }];
  policy({ "oci-archive": { [archives]: accept } });
  await expect(store.images.import(at("layout"))).rejects.toThrow("SignatureValidationFailed");
  await expect(store.images.import(at("docker.tar"))).rejects.toThrow("SignatureValidationFailed");
  const [image] = await store.images.import(at("oci.tar"));
  if (image === undefined) throw new Error("nothing imported");
  for (const text of ["example.com/one:1", image.id]) {
    await store.images.verify(image, text, "default");
    await (await store.reopen()).verify(image, text, "default");
  }
  policy({ "oci-archive": { "/elsewhere": accept } });
  await expect(store.images.verify(image, image.id, "default")).rejects.toThrow("Signature");
});

test("a compressed archive may not become larger than the disk or the limit allows", async () => {
  store.close();
  store = await openTestStore({ image: { max_layer_bytes: 50_000_000 } });
  const zeros = Buffer.alloc(60_000_000);
  writeFileSync(at("bomb.tar.zst"), zstdCompressSync(zeros));
  await expect(store.images.import(at("bomb.tar.zst"))).rejects.toMatchObject({
    code: "ResourceExhausted",
    message: expect.stringContaining("bomb.tar.zst: decompressed it takes more than 50000000"),
  });
  nothingLeft();
  const root = mkdtempSync(join(tmpdir(), "crib-full-"));
  mount({ source: "tmpfs", target: root, type: "tmpfs", data: "size=100m" });
  try {
    store.close();
    store = await openTestStore({ root });
    writeFileSync(at("large.tar.gz"), gzipSync(Buffer.alloc(150_000_000)));
    await expect(store.images.import(at("large.tar.gz"))).rejects.toMatchObject({
      code: "ResourceExhausted",
      message: expect.stringContaining("the last of the disk"),
    });
    nothingLeft();
  } finally {
    unmount(root, { detach: true });
    rmSync(root, { recursive: true });
  }
});

test("while large archives are read, timers come in between", async () => {
  const big = await pushImage(registry, "big:1", {
    layers: [[{ name: "zeros", data: Buffer.alloc(300_000_000) }]],
    compression: "none",
  });
  skopeo(big.name, `docker-archive:${at("big.tar")}:example.com/big:1`);
  writeFileSync(at("big.tar.zst"), zstdCompressSync(readFileSync(at("big.tar"))));
  for (const file of ["big.tar", "big.tar.zst"]) {
    let turns = 0;
    const ticking = setInterval(() => {
      turns += 1;
    }, 1);
    await store.images.import(at(file));
    clearInterval(ticking);
    // It yields for each MiB, not only when a pipe is full.
    expect(turns).toBeGreaterThan(20);
    await store.images.remove("example.com/big:1");
  }
}, 60_000);

test("prune removes what is neither pinned nor used, with its layers", async () => {
  await store.images.import(at("layout"));
  const two = await pushImage(registry, "used:1", { layers: [[{ name: "f", data: "used" }]] });
  await store.images.pull(two.name);
  const removed = await store.images.prune((id) => id === two.id);
  expect(removed.map(({ id }) => id)).toEqual([one.id]);
  expect(store.images.list().map(({ id }) => id)).toEqual([two.id]);
  expect(store.layerDirectories()).toHaveLength(1);
});
