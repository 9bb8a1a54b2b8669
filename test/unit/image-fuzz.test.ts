import { afterAll, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseRegistries } from "../../src/config/registries-conf.ts";
import { parseStrictJson } from "../../src/config/strict-json.ts";
import { parseChallenges } from "../../src/image/challenge.ts";
import { placeEntry } from "../../src/image/layer-path.ts";
import { parseConfig, parseManifest } from "../../src/image/manifest.ts";
import { formatReference, parseReference } from "../../src/image/reference.ts";
import { SignatureError } from "../../src/image/signature.ts";
import { TarParser } from "../../src/image/tar.ts";
import { TarError } from "../../src/image/tar-error.ts";
import { FUZZ_LIMIT_MS, fuzz, mutated } from "../fixtures/fuzz.ts";
import {
  CA_EXTENSIONS,
  personExtensions,
  signKeyless,
  TestCa,
  TestLog,
} from "../fixtures/sigstore.ts";
import { resum, tarball } from "../fixtures/tar.ts";

/** Enough rounds that both ways through were taken. */
function expectBoth(taken: number, refused: number): void {
  expect(taken).toBeGreaterThan(20);
  expect(refused).toBeGreaterThan(20);
}

const ARCHIVES = [
  tarball([
    { name: "dir/", type: "5" },
    { name: "dir/a", data: "x".repeat(700), pax: { mtime: "1.5", "SCHILY.xattr.user.a": "b" } },
    { name: "long", type: "L", data: `${"n".repeat(200)}\0` },
    { name: "b", data: "y" },
    { name: "c", type: "2", linkName: "dir/a" },
    { name: "d", type: "3", major: 1, minor: 3 },
    { name: "dir/.wh.z" },
  ]),
  execFileSync("tar", ["-c", "--format=gnu", "-C", "/etc", "hostname", "passwd"]),
  execFileSync("tar", ["-c", "--format=pax", "-C", "/etc", "hostname", "group"]),
  ...sparseArchives(),
];

/** In each of GNU tar's formats, one file with holes. */
function sparseArchives(): Buffer[] {
  const place = mkdtempSync(join(tmpdir(), "crib-fuzz-"));
  try {
    execFileSync("sh", ["-c", "truncate -s 30K s && echo x >>s && truncate -s 90K s"], {
      cwd: place,
    });
    const versions = ["0.0", "0.1", "1.0"].map((it) => ["--format=pax", `--sparse-version=${it}`]);
    return [["--format=gnu"], ...versions].map((flags) =>
      execFileSync("tar", ["-c", "-S", ...flags, "s"], { cwd: place }),
    );
  } finally {
    rmSync(place, { recursive: true });
  }
}

test(
  "tar: an archive is read, with safe names and as many bytes as it said, or refused",
  () => {
    let [taken, refused] = [0, 0];
    fuzz(1, (random) => {
      const archive = mutated(ARCHIVES[random(ARCHIVES.length)] ?? Buffer.alloc(0), random);
      // Else the checksum would end nearly all of them at once.
      for (let block = 0; block + 512 <= archive.length; block += 512) {
        if (random(3) > 0 && archive.subarray(block, block + 512).some((byte) => byte !== 0)) {
          resum(archive.subarray(block, block + 512));
        }
      }
      let left = 0;
      const parser = new TarParser({
        entry(entry) {
          left = entry.size;
          const placed = placeEntry(entry.name);
          if (placed.kind !== "ignored") expect(placed.path).not.toContain("..");
        },
        data(chunk) {
          left -= chunk.length;
          expect(left).toBeGreaterThanOrEqual(0);
        },
        hole(bytes) {
          left -= bytes;
          expect(bytes).toBeGreaterThan(0);
          expect(left).toBeGreaterThanOrEqual(0);
        },
        end: () => expect(left).toBe(0),
      });
      try {
        const step = 1 + random(2000);
        for (let at = 0; at < archive.length; at += step) {
          parser.push(archive.subarray(at, at + step));
        }
        parser.finish();
        taken += 1;
      } catch (error) {
        if (!(error instanceof TarError)) throw error;
        refused += 1;
      }
    });
    expectBoth(taken, refused);
  },
  FUZZ_LIMIT_MS,
);

const SHA = `sha256:${"0123456789abcdef".repeat(4)}`;

test(
  "reference: what is read is written so that it is read as the same; all else is InvalidArgument",
  () => {
    const seeds = [
      "busybox",
      "a.b:5000/c/d-e_f:tag",
      `x@${SHA}`,
      `localhost/x:1@${SHA}`,
      "[::1]:5/x",
    ];
    let [taken, refused] = [0, 0];
    fuzz(2, (random) => {
      const text = mutated(Buffer.from(seeds[random(seeds.length)] ?? ""), random).toString();
      try {
        const reference = parseReference(text);
        expect(parseReference(formatReference(reference))).toMatchObject({
          registry: reference.registry,
          repository: reference.repository,
        });
        expect(reference.repository.split("/")).not.toContain("..");
        taken += 1;
      } catch (error) {
        expect(error).toMatchObject({ code: "InvalidArgument" });
        refused += 1;
      }
    });
    expectBoth(taken, refused);
  },
  FUZZ_LIMIT_MS,
);

const OCI = "application/vnd.oci.image";
const descriptor = { mediaType: `${OCI}.layer.v1.tar+gzip`, digest: SHA, size: 5 };
const DOCUMENTS = [
  { SchemaVersion: 2, manifests: null, LAYERS: null, Config: { ...descriptor, Size: 5 } },
  {
    schemaVersion: 2,
    mediaType: `${OCI}.manifest.v1+json`,
    config: { ...descriptor, mediaType: `${OCI}.config.v1+json` },
    layers: [descriptor],
    annotations: { a: "b" },
  },
  {
    schemaVersion: 2,
    mediaType: `${OCI}.index.v1+json`,
    manifests: [
      {
        ...descriptor,
        mediaType: `${OCI}.manifest.v1+json`,
        platform: { os: "linux", architecture: "amd64" },
      },
    ],
  },
  {
    os: "linux",
    architecture: "amd64",
    config: { Env: ["A=b"], Cmd: ["x"], User: "1:2", Volumes: { "/v": {} } },
    rootfs: { type: "layers", diff_ids: [SHA] },
  },
].map((document) => Buffer.from(JSON.stringify(document)));

test(
  "manifest, index and configuration: read with real digests and sizes, or refused with a code",
  () => {
    let [taken, refused] = [0, 0];
    fuzz(3, (random) => {
      const which = random(DOCUMENTS.length);
      const bytes = mutated(DOCUMENTS[which] ?? Buffer.alloc(0), random);
      try {
        if (which === DOCUMENTS.length - 1) {
          for (const id of parseConfig(bytes, "x").diffIds)
            expect(id).toMatch(/^sha256:[0-9a-f]{64}$/);
        } else {
          const document = parseManifest(bytes, "", "x");
          const entries = document.kind === "image" ? document.layers : document.manifests;
          for (const { digest, size } of entries) {
            expect(digest).toMatch(/^sha(256|512):[0-9a-f]+$/);
            expect(Number.isSafeInteger(size) && size >= 0).toBe(true);
          }
        }
        taken += 1;
      } catch (error) {
        expect(["FailedPrecondition", "DataLoss"]).toContain((error as { code: string }).code);
        refused += 1;
      }
    });
    expectBoth(taken, refused);
  },
  FUZZ_LIMIT_MS,
);

test(
  "JSON: what is certain is read as everywhere, all else is a SyntaxError",
  () => {
    let [taken, refused] = [0, 0];
    fuzz(6, (random) => {
      const text = mutated(
        DOCUMENTS[random(DOCUMENTS.length)] ?? Buffer.alloc(0),
        random,
      ).toString();
      try {
        expect(parseStrictJson(text)).toEqual(JSON.parse(text));
        taken += 1;
      } catch (error) {
        if (!(error instanceof SyntaxError)) throw error;
        refused += 1;
      }
    });
    expectBoth(taken, refused);
    // What no document may do: take for ever.
    for (const part of ["\\", '\\"', '"', "{", "[", "1", " ", ",", ":", '"a":']) {
      const long = `{"a":"${part.repeat(300_000)}`;
      expect(() => parseStrictJson(long)).toThrow(SyntaxError);
      expect(() => parseStrictJson(long.replace('"a":"', ""))).toThrow(SyntaxError);
    }
  },
  FUZZ_LIMIT_MS,
);

test(
  "challenge: any header is read, in schemes and parameters that are in it",
  () => {
    const seeds = [
      'Bearer realm="https://a.b/token",service="a.b",scope="repository:x:pull"',
      'Basic realm="x", Bearer realm="a\\"b", error=invalid_token',
      "Negotiate, Basic realm=x",
    ];
    const rounds = fuzz(4, (random) => {
      const header = mutated(Buffer.from(seeds[random(seeds.length)] ?? ""), random).toString();
      for (const { scheme, parameters } of parseChallenges(header)) {
        expect(header.toLowerCase()).toContain(scheme);
        for (const name of parameters.keys()) expect(header.toLowerCase()).toContain(name);
      }
    });
    expect(rounds).toBeGreaterThan(20);
    // What no header may do: take for ever.
    parseChallenges(`${"Basic ".repeat(3000)}realm="${"\\".repeat(3000)}`);
    parseChallenges(`${",".repeat(10_000)}x`);
    parseChallenges(`${" ".repeat(200_000)}=`);
  },
  FUZZ_LIMIT_MS,
);

const CONF = Buffer.from(`unqualified-search-registries = ["a.io"]
short-name-mode = "permissive"
[[registry]]
prefix = "*.b.io"
location = "c.io:5000/d"
insecure = true
[[registry.mirror]]
location = "m.io"
pull-from-mirror = "digest-only"
[aliases]
"x" = "b.io/x"
`);

test(
  "registries.conf: read, or refused with the file's name",
  () => {
    let [taken, refused] = [0, 0];
    fuzz(5, (random) => {
      try {
        for (const { prefix } of parseRegistries(mutated(CONF, random).toString(), "f").rules) {
          expect(prefix).not.toBe("");
        }
        taken += 1;
      } catch (error) {
        expect(error).toMatchObject({ code: "FailedPrecondition" });
        refused += 1;
      }
    });
    expectBoth(taken, refused);
  },
  FUZZ_LIMIT_MS,
);

const directory = mkdtempSync(join(tmpdir(), "crib-fuzz-"));
afterAll(() => rmSync(directory, { recursive: true }));

test(
  "certificate, chain and log entry: a change to any of them is refused, or changes nothing that counts",
  async () => {
    const { verifyKeyless } = await import("../../src/image/keyless.ts");
    const ca = new TestCa(directory);
    const log = new TestLog();
    const root = ca.issue("root", { extensions: CA_EXTENSIONS });
    const middle = ca.issue("middle", { issuer: root, extensions: CA_EXTENSIONS });
    const extensions = personExtensions("a@b.c", "https://i");
    const dev = ca.issue("dev", { issuer: middle, extensions });
    const good = signKeyless(Buffer.from("payload"), dev, log, { chain: middle.certificate });
    const trust = {
      kind: "fulcio" as const,
      ca: root.certificate,
      oidcIssuer: "https://i",
      subjectEmail: "a@b.c",
      logKeys: [log.publicKeyObject],
    };
    verifyKeyless(good, trust);
    const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    expect(() => verifyKeyless(good, { ...trust, logKeys: [publicKey] })).toThrow(SignatureError);
    const parts = ["certificate", "chain", "bundle", "payload", "signature"] as const;
    let refused = 0;
    fuzz(6, (random) => {
      const part = parts[random(parts.length)] ?? "payload";
      const text = mutated(Buffer.from(good[part] ?? ""), random).toString("latin1");
      try {
        verifyKeyless({ ...good, [part]: text }, trust);
        const bytes = (value: string) => Buffer.from(value, "base64").toString("hex");
        if (part === "payload") expect(bytes(text)).toBe(bytes(good.payload));
      } catch (error) {
        if (!(error instanceof SignatureError)) throw error;
        refused += 1;
      }
    });
    expect(refused).toBeGreaterThan(20);
  },
  FUZZ_LIMIT_MS,
);
