import { expect, test } from "bun:test";
import { type Descriptor, parseConfig, parseManifest } from "../../src/image/manifest.ts";
import { choose, hostPlatform } from "../../src/image/platform.ts";

const SHA = `sha256:${"a".repeat(64)}`;
const OCI = "application/vnd.oci.image";
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
  ["no schemaVersion", { ...manifest, schemaVersion: undefined }, "schemaVersion"],
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
    "a foreign layer",
    {
      ...manifest,
      layers: [
        { ...layer, mediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" },
      ],
    },
    "foreign layers",
  ],
  [
    "a nondistributable layer",
    { ...manifest, layers: [{ ...layer, mediaType: `${OCI}.layer.nondistributable.v1.tar+gzip` }] },
    "foreign layers",
  ],
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

test("bytes that are no JSON, or no UTF-8, are refused", () => {
  expect(() => parseManifest(Buffer.from("{"), "", "x")).toThrow("not JSON");
  expect(() => parseManifest(Buffer.from([0x22, 0xff, 0x22]), "", "x")).toThrow("not JSON");
});

test("a config's empty and null fields become empty values", () => {
  const bytes = Buffer.from(
    JSON.stringify({
      os: "linux",
      config: { Env: null, Cmd: ["sh"], Volumes: { "/data": {} }, User: "1:2" },
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

test.each([
  [
    "Cmd is a string",
    { config: { Cmd: "sh" }, rootfs: { type: "layers", diff_ids: [] } },
    "config.Cmd",
  ],
  ["no rootfs", {}, "rootfs"],
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
});

test("entries without a platform come last, indexes before manifests", () => {
  const plain: Descriptor = { mediaType: `${OCI}.manifest.v1+json`, digest: SHA, size: 1 };
  const nested: Descriptor = { ...plain, mediaType: `${OCI}.index.v1+json` };
  expect(picked([plain, nested, entry("linux", "amd64")], "x64")).toEqual([2, 1, 0]);
});
