import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  parsePolicy,
  policyPath,
  readPolicy,
  requirementsFor,
  requirementsForArchive,
  type SignedIdentity,
} from "../../src/config/policy.ts";
import { signatureStorageOf } from "../../src/config/registries-d.ts";
import { parseStrictJson } from "../../src/config/strict-json.ts";
import { parseReference } from "../../src/image/reference.ts";
import { parsePayload } from "../../src/image/signature.ts";
import { identityMatches } from "../../src/image/signed-identity.ts";
import { FUZZ_LIMIT_MS, fuzz } from "../fixtures/fuzz.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "crib-policy-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

const ACCEPT = [{ type: "insecureAcceptAnything" }];
const REJECT = [{ type: "reject" }];
const SHA = `sha256:${"a".repeat(64)}`;

/** A requirement that can be told from others. */
const mark = (name: string) => [{ type: "signedBy", keyType: "GPGKeys", keyPath: name }];
const parse = (policy: unknown) => parsePolicy(JSON.stringify(policy), "policy.json");

test("the requirements of the most specific scope count, and only those", () => {
  const scopes = [
    "h.a.io:5000/n/r:tag",
    `h.a.io:5000/n/r@${SHA}`,
    "h.a.io:5000/n/r",
    "h.a.io:5000/n",
    "h.a.io:5000",
    "*.a.io",
    "*.io",
    "",
  ];
  const expected: Array<[string, string, string]> = [
    ["h.a.io:5000/n/r", ":tag", "h.a.io:5000/n/r:tag"],
    ["h.a.io:5000/n/r", `@${SHA}`, `h.a.io:5000/n/r@${SHA}`],
    ["h.a.io:5000/n/r", ":other", "h.a.io:5000/n/r"],
    ["h.a.io:5000/n/rr", ":tag", "h.a.io:5000/n"],
    ["h.a.io:5000/nn/r", ":tag", "h.a.io:5000"],
    ["h.a.io/n/r", ":tag", "*.a.io"],
    ["x.y.a.io:1/n/r", ":tag", "*.a.io"],
    ["a.io/n/r", ":tag", "*.io"],
    ["localhost/n/r", ":tag", ""],
  ];
  const docker = Object.fromEntries(scopes.map((scope) => [scope, mark(scope || "empty")]));
  const policy = parse({ default: mark("default"), transports: { docker } });
  for (const [name, suffix, scope] of expected) {
    expect(requirementsFor(policy, name, suffix)).toMatchObject(mark(scope || "empty"));
  }
  const without = parse({ default: mark("default"), transports: { oci: { "": REJECT } } });
  expect(requirementsFor(without, "constructor", ":x")).toMatchObject(mark("default"));
  expect(requirementsForArchive(without, "oci", "/a")).toMatchObject(REJECT);
  expect(requirementsForArchive(without, "oci-archive", "/a")).toMatchObject(mark("default"));
  expect(requirementsForArchive(without, "docker-archive", "/a")).toMatchObject(mark("default"));
});

test("an archive's path, then the directories above it, then its transport decide", () => {
  const scopes = { "/a/b": mark("b"), "/a/b/c.tar": mark("c"), "": mark("empty") };
  const policy = parse({ default: mark("default"), transports: { "oci-archive": scopes } });
  const of = (path: string) => requirementsForArchive(policy, "oci-archive", path);
  expect(of("/a/b/c.tar")).toMatchObject(mark("c"));
  expect(of("/a/b/d/e.tar")).toMatchObject(mark("b"));
  expect(of("/a/bb/c.tar")).toMatchObject(mark("empty"));
  const wrong = parse({ default: mark("default"), transports: { "docker-archive": scopes } });
  expect(() => requirementsForArchive(wrong, "docker-archive", "/a/b")).toThrow("has no scopes");
});

test.each([
  ["{}", "default"],
  ['{"default": []}', "default"],
  ['{"default": [{"type": "insecureAcceptAnything"}], "other": 1}', "other"],
  ['{"default": [{"type": "reject", "x": 1}]}', "default.0"],
  ['{"default": [{"type": "acceptAll"}]}', "acceptAll"],
  ['{"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}', "exactly one of"],
  [
    '{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "a", "keyData": "YQ=="}]}',
    "exactly one of",
  ],
  ['{"default": [{"type": "signedBy", "keyType": "X509", "keyPath": "a"}]}', "keyType"],
  ['{"default": [{"type": "sigstoreSigned", "keyData": "%%%"}]}', "keyData"],
  [
    '{"default": [{"type": "sigstoreSigned", "keyPath": "a", "signedIdentity": {"type": "any"}}]}',
    "signedIdentity",
  ],
  ['{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}', "twice"],
  ['{"default": [{"type": "reject", "\\u0074ype": "insecureAcceptAnything"}]}', "twice"],
  ["not json", "policy.json"],
])("the policy %s is refused as a whole", (text, message) => {
  expect(() => parsePolicy(text, "policy.json")).toThrow(message);
  expect(() => parsePolicy(text, "policy.json")).toThrow("policy.json");
});

test.each([["signedBaseLayer", { type: "signedBaseLayer", baseLayerIdentity: {} }]])(
  "%s is Unimplemented as soon as the policy is read",
  (name, requirement) => {
    const read = () =>
      parse({ default: ACCEPT, transports: { docker: { "a.io": [requirement] } } });
    expect(read).toThrow(name);
    expect(read).toThrow(expect.objectContaining({ code: "Unimplemented" }));
  },
);

test("a namespace's own policy replaces the node's; no name leads out of the directory", () => {
  const paths = { file: join(directory, "policy.json"), directory: join(directory, "d") };
  mkdirSync(paths.directory);
  writeFileSync(join(paths.directory, "team.json"), "{}");
  writeFileSync(join(directory, "evil.json"), "{}");
  expect(policyPath(paths, "team")).toBe(join(paths.directory, "team.json"));
  for (const namespace of ["other", "", "../evil", "team.json/../team"]) {
    expect(policyPath(paths, namespace)).toBe(paths.file);
  }
  expect(() => readPolicy(paths.file)).toThrow("is not there");
});

const identities: Array<[SignedIdentity, string, string, boolean]> = [
  [{ type: "matchExact" }, "a.io/r:1", "a.io/r:1", true],
  [{ type: "matchExact" }, "a.io/r:1", "a.io/r:2", false],
  [{ type: "matchExact" }, "a.io/r", "a.io/r", false],
  [{ type: "matchExact" }, `a.io/r@${SHA}`, `a.io/r@${SHA}`, false],
  [{ type: "matchExact" }, "busybox:1", "docker.io/library/busybox:1", true],
  [{ type: "matchRepoDigestOrExact" }, "a.io/r:1", "a.io/r:1", true],
  [{ type: "matchRepoDigestOrExact" }, "a.io/r:1", "a.io/r", false],
  [{ type: "matchRepoDigestOrExact" }, "a.io/r:latest", "a.io/r", false],
  [{ type: "matchRepoDigestOrExact" }, `a.io/r@${SHA}`, "a.io/r:7", true],
  [{ type: "matchRepoDigestOrExact" }, `a.io/r@${SHA}`, "a.io/r", true],
  [{ type: "matchRepoDigestOrExact" }, `a.io/r@${SHA}`, "a.io/s:7", false],
  [{ type: "matchRepository" }, "a.io/r:1", "a.io/r", true],
  [{ type: "matchRepository" }, "a.io/r:1", "a.io/rr", false],
  [{ type: "matchRepository" }, "a.io/r:1", "not a name", false],
  [{ type: "exactReference", dockerReference: "b.io/x:1" }, "a.io/r:1", "b.io/x:1", true],
  [{ type: "exactReference", dockerReference: "b.io/x:1" }, "a.io/r:1", "b.io/x:2", false],
  [{ type: "exactReference", dockerReference: "b.io/x:1" }, "b.io/x:1", "a.io/r:1", false],
  [{ type: "exactRepository", dockerRepository: "b.io/x" }, "a.io/r:1", "b.io/x:2", true],
  [{ type: "exactRepository", dockerRepository: "b.io/x" }, "a.io/r:1", "a.io/r:1", false],
  [
    { type: "remapIdentity", prefix: "m.io/v", signedPrefix: "v.io" },
    "m.io/v/p/i:1",
    "v.io/p/i:1",
    true,
  ],
  [
    { type: "remapIdentity", prefix: "m.io/v", signedPrefix: "v.io" },
    "m.io/v/p/i:1",
    "m.io/v/p/i:1",
    false,
  ],
  [
    { type: "remapIdentity", prefix: "m.io/v", signedPrefix: "v.io" },
    "m.io/vv/i:1",
    "m.io/vv/i:1",
    true,
  ],
  [
    { type: "remapIdentity", prefix: "m.io/v", signedPrefix: "v.io" },
    `m.io/v/i@${SHA}`,
    "v.io/i:9",
    true,
  ],
];
test.each(identities)(
  "with %j the image %s signed as %s: %j",
  (identity, image, signed, expected) => {
    expect(identityMatches(identity, parseReference(image), signed)).toBe(expected);
  },
);

const payload = (changes: { critical?: unknown; rest?: Record<string, unknown> } = {}) =>
  Buffer.from(
    JSON.stringify({
      critical: changes.critical ?? {
        type: "atomic container signature",
        image: { "docker-manifest-digest": SHA },
        identity: { "docker-reference": "a.io/r:1" },
      },
      optional: { creator: "x", anything: [1] },
      ...changes.rest,
    }),
  );

test("a payload is read; anything unknown in its critical part refuses it", () => {
  expect(parsePayload(payload(), "simple")).toEqual({ digest: SHA, reference: "a.io/r:1" });
  expect(() => parsePayload(payload(), "sigstore")).toThrow("payload");
  const critical = {
    type: "atomic container signature",
    image: { "docker-manifest-digest": SHA },
    identity: { "docker-reference": "a.io/r:1" },
  };
  for (const wrong of [
    { ...critical, more: 1 },
    { ...critical, image: { ...critical.image, more: 1 } },
    { ...critical, identity: { ...critical.identity, more: 1 } },
    { ...critical, type: "other" },
  ]) {
    expect(() => parsePayload(payload({ critical: wrong }), "simple")).toThrow("payload");
  }
  expect(() => parsePayload(payload({ rest: { more: 1 } }), "simple")).toThrow("payload");
  expect(() => parsePayload(Buffer.from([0xff, 0xfe]), "simple")).toThrow("payload");
  const twice = payload()
    .toString()
    .replace('"identity"', '"image":{"docker-manifest-digest":"x"},"identity"');
  expect(() => parsePayload(Buffer.from(twice), "simple")).toThrow("twice");
});

test("registries.d: the most specific section alone counts", () => {
  writeFileSync(
    join(directory, "a.yaml"),
    `default-docker:
  use-sigstore-attachments: true
docker:
  a.io:
    lookaside: https://sigs.a.io
  a.io/n/r:
    use-sigstore-attachments: true
`,
  );
  writeFileSync(join(directory, "b.yaml"), 'docker:\n  "b.io/x:tag":\n    sigstore: file:///old\n');
  writeFileSync(join(directory, "c.txt"), ":::");
  const of = (name: string, suffix = ":t") => signatureStorageOf(directory, name, suffix);
  expect(of("a.io/n/s")).toEqual({ lookaside: "https://sigs.a.io", sigstoreAttachments: false });
  expect(of("a.io/n/r")).toEqual({ lookaside: "", sigstoreAttachments: true });
  expect(of("b.io/x", ":tag").lookaside).toBe("file:///old");
  expect(of("b.io/x", ":other")).toEqual({ lookaside: "", sigstoreAttachments: true });
  expect(signatureStorageOf(join(directory, "absent"), "b.io/x", ":t")).toEqual({
    lookaside: "file:///var/lib/containers/sigstore",
    sigstoreAttachments: false,
  });
  writeFileSync(join(directory, "d.yaml"), "docker:\n  a.io:\n    lookaside: file:///evil\n");
  expect(() => of("b.io/x")).toThrow("a.io is there twice");
});

test.each([
  ["docker: [", "a.yaml"],
  ["docker:\n  a.io:\n    lookasid: https://x\n", "lookasid"],
  ["docker:\n  a.io:\n    lookaside: ftp://x\n", "lookaside"],
  ["more: 1", "more"],
])("registries.d with %j is refused", (text, message) => {
  writeFileSync(join(directory, "a.yaml"), text);
  expect(() => signatureStorageOf(directory, "a.io/x", ":1")).toThrow(message);
});

test(
  "strict JSON is JSON but for members that are there twice",
  () => {
    for (const text of [
      '{"a":[{"b":1},{"b":2}],"c":{"a":1}}',
      '["a","a"]',
      '"{"',
      "1",
      '{"a":"a","b":"a"}',
    ]) {
      expect(parseStrictJson(text)).toEqual(JSON.parse(text));
    }
    for (const text of ['{"a":1,"a":1}', '[{"b":{"c":[],"c":0}}]', '{"a":{},"\\u0061":2}']) {
      expect(() => parseStrictJson(text)).toThrow("twice");
    }
    const value = (random: (below: number) => number, depth: number): unknown => {
      const kind = random(depth > 3 ? 3 : 5);
      if (kind === 0) return random(1000) / 7;
      if (kind === 1) return ['a"b', "{", "\\", ",:", "é", ""][random(6)];
      if (kind === 2) return [null, true, false][random(3)];
      if (kind === 3) return Array.from({ length: random(4) }, () => value(random, depth + 1));
      const names = ["a", '"', "{a", "b\\", ""].slice(0, random(6));
      return Object.fromEntries(names.map((name) => [name, value(random, depth + 1)]));
    };
    fuzz(3, (random) => {
      const made = value(random, 0);
      expect(parseStrictJson(JSON.stringify(made, undefined, random(3)))).toEqual(made);
    });
  },
  FUZZ_LIMIT_MS,
);
