import { expect, test } from "bun:test";
import { type Descriptor, parseConfig, parseManifest } from "../../src/image/manifest.ts";
import { choose, hostPlatform } from "../../src/image/platform.ts";

const OCTETS = "application/octet-stream";
const SHA = `sha256:${"a".repeat(64)}`;
const OCI = "application/vnd.oci.image";
const INDEX = `${OCI}.index.v1+json`;
const layer = { mediaType: `${OCI}.layer.v1.tar+gzip`, digest: SHA, size: 3 };
const manifest = {
  schemaVersion: 2,
  mediaType: `${OCI}.manifest.v1+json`,
  config: { mediaType: `${OCI}.config.v1+json`, digest: SHA, size: 2 },
  layers: [layer],
};
const parse = (document: unknown, contentType = "") =>
  parseManifest(Buffer.from(JSON.stringify(document)), contentType, "manifest x");

test("a manifest is read, with or without mediaType and annotations", () => {
  const read = parse({ ...manifest, annotations: { a: "b" } });
  expect(read).toMatchObject({ kind: "image", layers: [layer], annotations: { a: "b" } });
  expect(parse({ ...manifest, mediaType: undefined }).kind).toBe("image");
});

test("an index is told by its content type or its content", () => {
  const index = { schemaVersion: 2, manifests: [] };
  expect(parse(index, `${OCI}.index.v1+json`).kind).toBe("index");
  expect(parse(index).kind).toBe("index");
});

test.each([
  ["schema 1", { schemaVersion: 1, name: "x", fsLayers: [] }, "schema 1"],
  ["another schemaVersion", { ...manifest, schemaVersion: 3 }, "schemaVersion"],
  ["a layer without a size", { ...manifest, layers: [{ ...layer, size: null }] }, "layers.0.size"],
  ["a config that is null", { ...manifest, config: null }, "config"],
  ["two sorts of layers", { ...manifest, Layers: [] }, "layers is there twice, as Layers"],
  ["two sorts of digests", { ...manifest, layers: [{ ...layer, DIGEST: SHA }] }, "digest is there"],
  ["schema 1 at the same time", { ...manifest, fsLayers: [] }, "schema 1 manifest and another"],
  ["an index in other letters", { ...manifest, ManifestS: [] }, "at once"],
  ["a manifest that says it is an index", { ...manifest, mediaType: INDEX }, "and is not"],
  [
    "an index that says it is a manifest",
    { schemaVersion: 2, mediaType: manifest.mediaType, manifests: [] },
    "and is not",
  ],
  ["index and manifest at once", { ...manifest, manifests: [] }, "at once"],
  ["a negative size", { ...manifest, layers: [{ ...layer, size: -1 }] }, "layers.0.size"],
  ["a fractional size", { ...manifest, layers: [{ ...layer, size: 1.5 }] }, "layers.0.size"],
  [
    "a bad digest",
    { ...manifest, layers: [{ ...layer, digest: "sha256:../.." }] },
    "layers.0.digest",
  ],
  ["no config", { ...manifest, config: undefined }, "config"],
  [
    "an encrypted layer",
    { ...manifest, layers: [{ ...layer, mediaType: `${OCI}.layer.v1.tar+gzip+encrypted` }] },
    "is not supported",
  ],
  [
    "an artifact",
    {
      ...manifest,
      config: { ...manifest.config, mediaType: "application/vnd.cncf.helm.config.v1+json" },
    },
    "no container image",
  ],
  ["257 layers", { ...manifest, layers: Array(257).fill(layer) }, "layers"],
  [
    "annotations that are too long",
    { ...manifest, annotations: { a: "é".repeat(131_072) } },
    "bytes",
  ],
  ["too long a name of one", { ...manifest, annotations: { ["k".repeat(262_145)]: "" } }, "bytes"],
  ["an array", [], "not a JSON object"],
])("%s is refused as FailedPrecondition", (_, document, message) => {
  expect(() => parse(document)).toThrow(message);
  expect(() => parse(document)).toThrow(
    expect.objectContaining({ code: "FailedPrecondition" }) as Error,
  );
});

test("annotations may have 256 KiB, and a user 4096 characters", () => {
  const annotations = { ab: "x".repeat(256 * 1024 - 2) };
  expect(parse({ ...manifest, annotations })).toMatchObject({ annotations });
  const User = "u".repeat(4096);
  const document = { config: { User }, rootfs: { type: "layers", diff_ids: [] } };
  expect(parseConfig(Buffer.from(JSON.stringify(document)), "x").config.User).toBe(User);
});

test("bytes that are no JSON are refused, and names that are there twice", () => {
  expect(() => parseManifest(Buffer.from("{"), "", "x")).toThrow("not JSON");
  const text = JSON.stringify(manifest).replace("{", '{"layers":[],');
  expect(() => parseManifest(Buffer.from(text), "", "x")).toThrow("a name in it twice");
});

test.each([
  ["a config of no special type", { config: { ...manifest.config, mediaType: OCTETS } }, {}],
  ["layers that are null", { layers: null }, { layers: [] }],
  ["no schemaVersion", { schemaVersion: undefined }, {}],
  [
    "null for anything that may be missing",
    { annotations: null, mediaType: null, manifests: null },
    {},
  ],
  ["names in any case", { layers: undefined, LAYERS: [layer] }, {}],
  ["fields that nobody knows", { history: null, subject: { digest: "x" }, artifactType: "y" }, {}],
  ["a layer with urls and data", { layers: [{ ...layer, urls: ["http://x"], data: "e30=" }] }, {}],
  [
    "layers that were not to be pushed on",
    { layers: [{ ...layer, mediaType: `${OCI}.layer.nondistributable.v1.tar+gzip` }] },
    { layers: [{ ...layer, mediaType: `${OCI}.layer.nondistributable.v1.tar+gzip` }] },
  ],
  ["annotations that are null", { annotations: { a: null } }, { annotations: { a: "" } }],
])("a manifest is taken with %s, as by other runtimes", (_, changes, read) => {
  const { layers } = manifest;
  expect(parse({ ...manifest, ...changes })).toEqual({
    kind: "image",
    config: { ...manifest.config, ...(changes as { config?: object }).config, platform: undefined },
    layers: layers.map((one) => ({ ...one, platform: undefined })),
    annotations: {},
    ...read,
  } as never);
});

test("sizes may be written as any number that is whole, and around the document may be space", () => {
  const text = JSON.stringify(manifest).replace('"size":3', '"size":3e0');
  const bytes = Buffer.from(`\ufeff ${text}\r\n\0`.replace("\0", "\n"));
  expect(parseManifest(bytes, "text/plain", "x")).toMatchObject({ layers: [{ size: 3 }] });
});

test("of an index only the entries count that can be read; it may have parameters in its type", () => {
  const good = { mediaType: manifest.mediaType, digest: SHA, size: 1, platform: { os: null } };
  const index = {
    mediaType: `${INDEX}; charset=utf-8`,
    manifests: [{ ...good, digest: `sha384:${"a".repeat(96)}` }, null, good],
  };
  const platform = { os: "", architecture: "", variant: "" };
  expect(parse(index)).toEqual({ kind: "index", manifests: [{ ...good, platform }] });
  expect(parse({ schemaVersion: 2, manifests: null }, INDEX)).toEqual({
    kind: "index",
    manifests: [],
  });
});

test("documents of many values are refused before they are built", () => {
  const many = { schemaVersion: 2, manifests: Array(100_000).fill({ digest: SHA, size: 1 }) };
  expect(() => parse(many)).toThrow("more than 10000 values");
  const deep = `{"a":${"[".repeat(101)}${"]".repeat(101)}}`;
  expect(() => parseManifest(Buffer.from(deep), "", "x")).toThrow("more than 100 levels");
});

test("a config's empty, null and unknown fields, and odd dates, are no trouble", () => {
  const bytes = Buffer.from(
    JSON.stringify({
      os: "linux",
      architecture: null,
      created: "yesterday",
      history: "none",
      Author: 7,
      config: {
        Env: null,
        ExposedPorts: null,
        OnBuild: 3,
        cmd: ["sh"],
        Volumes: { "/data": {} },
        User: "1:2",
      },
      rootfs: { type: "layers", diff_ids: [SHA] },
    }),
  );
  expect(parseConfig(bytes, "x")).toEqual({
    os: "linux",
    architecture: "",
    diffIds: [SHA],
    config: {
      Env: [],
      Entrypoint: [],
      Cmd: ["sh"],
      WorkingDir: "",
      User: "1:2",
      Volumes: ["/data"],
      ExposedPorts: [],
      StopSignal: "",
      Labels: {},
    },
  });
});

test("a config of nothing is one of an image without layers, and may hold bytes that are no UTF-8", () => {
  const parse = (text: string) => parseConfig(Buffer.from(text, "latin1"), "x");
  for (const text of ["{}", '{"config":null,"rootfs":null}', '{"rootfs":{"diff_ids":null}}']) {
    expect(parse(text)).toMatchObject({ diffIds: [], config: { Env: [], User: "" } });
  }
  expect(
    parse('{"author":"Andr\xe9","config":{"Labels":{"a":"\xe9","b":null}}}').config.Labels,
  ).toEqual({
    a: "\ufffd",
    b: "",
  });
});

test.each([
  [
    "Cmd is a string",
    { config: { Cmd: "sh" }, rootfs: { type: "layers", diff_ids: [] } },
    "config.Cmd",
  ],
  [
    "its layers are of another kind",
    { rootfs: { type: "layers+base", diff_ids: [] } },
    "rootfs.type",
  ],
  ["it is longer than 1 MiB", { history: "x".repeat(1024 * 1024) }, "at most 1048576"],
  [
    "it has more than 128 volumes",
    {
      config: { Volumes: Object.fromEntries(Array.from({ length: 129 }, (_, i) => [`/${i}`, {}])) },
    },
    "config.Volumes: 129 of them, at most 128",
  ],
  [
    "a volume is 33 directories deep",
    { config: { volumes: { ["/a".repeat(33)]: {} } } },
    "33 directories deep, at most 32",
  ],
  [
    "a volume's path is longer than Linux takes",
    { config: { Volumes: { [`/${"a".repeat(4095)}`]: {} } } },
    "longer than 4095 bytes",
  ],
  ["it has two users", { config: { User: "0", USER: "1" } }, "User is there twice, as USER"],
  [
    "its user is longer than any",
    { config: { User: "u".repeat(4097) }, rootfs: { type: "layers", diff_ids: [] } },
    "config.User",
  ],
  ["a diffID is no digest", { rootfs: { type: "layers", diff_ids: ["x"] } }, "rootfs.diff_ids.0"],
  [
    "a diffID is sha512, which Crib does not compute",
    { rootfs: { type: "layers", diff_ids: [`sha512:${"0".repeat(128)}`] } },
    "is not a sha256 digest",
  ],
])("a config is refused when %s", (_, document, message) => {
  expect(() => parseConfig(Buffer.from(JSON.stringify(document)), "x")).toThrow(message);
});

const entry = (os: string, architecture: string, variant = ""): Descriptor => ({
  mediaType: `${OCI}.manifest.v1+json`,
  digest: SHA,
  size: 1,
  platform: { os, architecture, variant },
});
const picked = (entries: Descriptor[], arch: string, flags = "") =>
  choose(
    entries,
    hostPlatform(arch, () => new Set(flags.split(" "))),
  ).map((found) => entries.indexOf(found));

test("the entry of the host's platform is chosen, other systems' never", () => {
  const entries = [entry("windows", "amd64"), entry("linux", "arm64"), entry("linux", "amd64")];
  expect(picked(entries, "x64")).toEqual([2]);
  expect(picked([entry("unknown", "unknown"), entry("linux", "s390x")], "x64")).toEqual([]);
});

test("variants are ranked: what the host surely runs comes first, what it may not run never", () => {
  const arm = [
    entry("linux", "arm64"),
    entry("linux", "arm64", "v9"),
    entry("linux", "arm64", "v8"),
  ];
  expect(picked(arm, "arm64")).toEqual([2, 0]);
  const amd = ["v4", "v3", "v2", ""].map((variant) => entry("linux", "amd64", variant));
  const v2 = "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3";
  const v3 = "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave";
  expect(picked(amd, "x64", v2)).toEqual([3, 2]);
  expect(picked(amd, "x64", `${v2} ${v3}`)).toEqual([3, 2, 1]);
  // A level is nothing without those below it.
  expect(picked(amd, "x64", v3)).toEqual([3]);
  expect(picked([entry("Linux", "X86_64"), entry("linux", "AMD64")], "x64")).toEqual([0, 1]);
  expect(picked([entry("linux", "aarch64", "8")], "arm64")).toEqual([0]);
});

test("entries without a platform come last, indexes before manifests", () => {
  const plain: Descriptor = { mediaType: `${OCI}.manifest.v1+json`, digest: SHA, size: 1 };
  const nested: Descriptor = { ...plain, mediaType: `${OCI}.index.v1+json` };
  expect(picked([plain, nested, entry("linux", "amd64")], "x64")).toEqual([2, 1, 0]);
});
