import { afterAll, beforeAll, expect, test } from "bun:test";
import { generateKeyPairSync, sign } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parsePolicy, type Requirement } from "../../src/config/policy.ts";
import { parseReference } from "../../src/image/reference.ts";
import type { SigstoreSignature } from "../../src/image/signature.ts";
import { requireTrust } from "../../src/image/trust.ts";
import {
  CA_EXTENSIONS,
  type Identity,
  personExtensions,
  publicPem,
  signKeyless,
  TestCa,
  TestLog,
} from "../fixtures/sigstore.ts";

const ISSUER = "https://accounts.example.com";
const EMAIL = "dev@example.com";
const DIGEST = `sha256:${"a".repeat(64)}`;
const REFERENCE = parseReference("r.example.com/team/app:1");
const PAYLOAD = Buffer.from(
  JSON.stringify({
    critical: {
      type: "cosign container image signature",
      image: { "docker-manifest-digest": DIGEST },
      identity: { "docker-reference": "r.example.com/team/app" },
    },
    optional: null,
  }),
);
const HOUR = 3600;
const now = Math.floor(Date.now() / 1000);

let directory: string;
let ca: TestCa;
let root: Identity;
let middle: Identity;
let dev: Identity;
const log = new TestLog();
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "crib-sigstore-"));
  ca = new TestCa(directory);
  root = ca.issue("root", { extensions: CA_EXTENSIONS, from: now - 90 * HOUR });
  middle = ca.issue("middle", { issuer: root, extensions: CA_EXTENSIONS, from: now - 90 * HOUR });
  dev = ca.issue("dev", { issuer: root, extensions: personExtensions(EMAIL, ISSUER) });
});
afterAll(() => rmSync(directory, { recursive: true }));

const base64 = (text: string) => Buffer.from(text).toString("base64");
const signedIdentity = { type: "matchRepository" };
const fulcio = (more: object = {}) => ({
  caData: base64(root.certificate),
  oidcIssuer: ISSUER,
  subjectEmail: EMAIL,
  ...more,
});

function requirementsOf(requirement: object): Requirement[] {
  const text = JSON.stringify({
    default: [{ type: "sigstoreSigned", signedIdentity, ...requirement }],
  });
  return parsePolicy(text, "policy.json").default;
}

/** Undefined when the signature counts, else why not. */
async function whyNot(
  signature: SigstoreSignature,
  requirement: object = { fulcio: fulcio(), rekorPublicKeyData: base64(log.publicKey) },
): Promise<string | undefined> {
  const evidence = { digests: [DIGEST], signatures: [signature] };
  try {
    await requireTrust(requirementsOf(requirement), REFERENCE, evidence);
    return undefined;
  } catch (error) {
    expect(error).toMatchObject({ code: "PermissionDenied" });
    return String(error);
  }
}

test("what a certified person has signed counts, while the log says that the certificate held", async () => {
  expect(await whyNot(signKeyless(PAYLOAD, dev, log))).toBeUndefined();
});

test("a certificate that has expired since still counts; one that was not yet or no more valid does not", async () => {
  const [from, until] = [now - 50 * HOUR, now - 49 * HOUR];
  const extensions = personExtensions(EMAIL, ISSUER);
  const short = ca.issue("short", { issuer: root, extensions, from, until });
  const at = (integratedTime: number) =>
    whyNot(signKeyless(PAYLOAD, short, log, { integratedTime }));
  expect(await at(from + 60)).toBeUndefined();
  expect(await at(until + 60)).toContain("its certificate was not valid on");
  expect(await at(from - 60)).toContain("its certificate was not valid on");
});

test("an intermediate certificate may come with the signature, or be missing", async () => {
  const below = ca.issue("below", { issuer: middle, extensions: personExtensions(EMAIL, ISSUER) });
  const chain = middle.certificate + root.certificate;
  expect(await whyNot(signKeyless(PAYLOAD, below, log, { chain }))).toBeUndefined();
  expect(await whyNot(signKeyless(PAYLOAD, below, log))).toContain("by another CA");
  const all = {
    fulcio: fulcio({ caData: base64(chain) }),
    rekorPublicKeyData: base64(log.publicKey),
  };
  expect(await whyNot(signKeyless(PAYLOAD, below, log), all)).toBeUndefined();
});

test("a chain that the signature brings is no root, and no leaf is a CA", async () => {
  const own = ca.issue("root", { extensions: CA_EXTENSIONS });
  const mine = ca.issue("mine", { issuer: own, extensions: personExtensions(EMAIL, ISSUER) });
  const chain = own.certificate;
  expect(await whyNot(signKeyless(PAYLOAD, mine, log, { chain }))).toContain("by another CA");
  const byLeaf = ca.issue("sub", { issuer: dev, extensions: personExtensions(EMAIL, ISSUER) });
  const through = { chain: dev.certificate };
  expect(await whyNot(signKeyless(PAYLOAD, byLeaf, log, through))).toContain("by another CA");
});

test("a path length is kept, and certificates that sign each other in a circle end", async () => {
  const extensions = [
    "basicConstraints=critical,CA:TRUE,pathlen:0",
    "keyUsage=critical,keyCertSign",
  ];
  const narrow = ca.issue("narrow", { issuer: root, extensions });
  const deeper = ca.issue("deeper", { issuer: narrow, extensions: CA_EXTENSIONS });
  const person = personExtensions(EMAIL, ISSUER);
  const good = ca.issue("good", { issuer: narrow, extensions: person });
  const bad = ca.issue("bad", { issuer: deeper, extensions: person });
  const chain = narrow.certificate + deeper.certificate;
  expect(await whyNot(signKeyless(PAYLOAD, good, log, { chain }))).toBeUndefined();
  expect(await whyNot(signKeyless(PAYLOAD, bad, log, { chain }))).toContain("by another CA");
  const self = ca.issue("loop", { extensions: CA_EXTENSIONS });
  const again = ca.issue("loop", { issuer: self, extensions: CA_EXTENSIONS });
  const lost = ca.issue("lost", { issuer: self, extensions: person });
  const circle = { chain: (self.certificate + again.certificate).repeat(6) };
  expect(await whyNot(signKeyless(PAYLOAD, lost, log, circle))).toContain("by another CA");
});

test.each<[string, () => readonly string[], string]>([
  [
    "another e-mail address",
    () => personExtensions("dev@example.com.evil", ISSUER),
    "dev@example.com.evil",
  ],
  [
    "another OpenID issuer",
    () => personExtensions(EMAIL, `${ISSUER}.evil`),
    "accounts.example.com.evil",
  ],
  [
    "two OpenID issuers",
    () => [
      ...personExtensions(EMAIL, ISSUER).slice(0, 4),
      "1.3.6.1.4.1.57264.1.8=ASN1:UTF8String:https://other",
    ],
    "https://other",
  ],
  ["no OpenID issuer", () => personExtensions(EMAIL, ISSUER).slice(0, 3), "OpenID issuer []"],
  [
    "a certificate for servers",
    () => ["extendedKeyUsage=serverAuth", ...personExtensions(EMAIL, ISSUER).slice(2)],
    "not for signing code",
  ],
  [
    "a critical extension that nobody knows",
    () => [...personExtensions(EMAIL, ISSUER), "1.2.3.4=critical,DER:0500"],
    "extension 1.2.3.4",
  ],
])("%s is refused with its reason", async (_, extensions, reason) => {
  const signer = ca.issue("other", { issuer: root, extensions: extensions() });
  expect(await whyNot(signKeyless(PAYLOAD, signer, log))).toContain(reason);
});

test.each<[string, (good: SigstoreSignature) => SigstoreSignature, string]>([
  ["no certificate", (good) => ({ ...good, certificate: undefined }), "it has no certificate"],
  ["a damaged certificate", (good) => ({ ...good, certificate: "x" }), "not one in PEM"],
  [
    "two certificates",
    (good) => ({ ...good, certificate: `${good.certificate}${good.certificate}` }),
    "not one in PEM",
  ],
  ["no entry of a log", (good) => ({ ...good, bundle: undefined }), "no entry of a Rekor log"],
  ["an entry that is no JSON", (good) => ({ ...good, bundle: "{" }), "not understood"],
  [
    "an entry of another log",
    () => signKeyless(PAYLOAD, dev, new TestLog()),
    "by another Rekor log",
  ],
  [
    "an entry of another time than was promised",
    (good) => ({
      ...good,
      bundle: good.bundle?.replace(/"integratedTime":\d+/, '"integratedTime":1700000000'),
    }),
    "by another Rekor log, or changed",
  ],
  [
    "the entry of another signature",
    (good) => ({ ...good, bundle: signKeyless(Buffer.from("x"), dev, log).bundle }),
    "about another signature",
  ],
  [
    "the entry of another signer",
    (good) => {
      const payload = PAYLOAD;
      const signature = Buffer.from(good.signature, "base64");
      return { ...good, bundle: log.bundle({ payload, signature, signer: root.certificate }) };
    },
    "about another signature",
  ],
  [
    "a signature by another key, though the log has it",
    (good) => {
      const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
      const signature = sign("sha256", PAYLOAD, privateKey);
      const bundle = log.bundle({ payload: PAYLOAD, signature, signer: dev.certificate });
      return { ...good, signature: signature.toString("base64"), bundle };
    },
    "another key than its certificate's",
  ],
])("%s is refused with its reason", async (_, change, reason) => {
  expect(await whyNot(change(signKeyless(PAYLOAD, dev, log)))).toContain(reason);
});

test("a signature with a key needs the log's entry where the policy names a log, by any of its keys", async () => {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const signature = sign("sha256", PAYLOAD, privateKey);
  const signer = publicPem(privateKey);
  const [payload, text] = [PAYLOAD.toString("base64"), signature.toString("base64")];
  const bare: SigstoreSignature = { kind: "sigstore", payload, signature: text };
  const logged = { ...bare, bundle: log.bundle({ payload: PAYLOAD, signature, signer }) };
  const keyData = base64(signer);
  const rekorPublicKeyDatas = [base64(new TestLog().publicKey), base64(log.publicKey)];
  expect(await whyNot(bare, { keyData })).toBeUndefined();
  expect(await whyNot(bare, { keyData, rekorPublicKeyDatas })).toContain("no entry of a Rekor log");
  expect(await whyNot(logged, { keyData, rekorPublicKeyDatas })).toBeUndefined();
  const other = { keyData, rekorPublicKeyDatas: rekorPublicKeyDatas.slice(0, 1) };
  expect(await whyNot(logged, other)).toContain("by another Rekor log");
});

test("an own CA's certificates count while they are valid, for an address or a host", async () => {
  const extensions = [
    "extendedKeyUsage=codeSigning",
    `subjectAltName=email:${EMAIL},DNS:*.build.example.com,DNS:ci.example.com`,
  ];
  const signer = ca.issue("builder", { issuer: middle, extensions });
  const signed = { ...signKeyless(PAYLOAD, signer, log), bundle: undefined };
  const pki = (more: object) => ({
    pki: {
      caRootsData: base64(root.certificate),
      caIntermediatesData: base64(middle.certificate),
      ...more,
    },
  });
  expect(await whyNot(signed, pki({ subjectEmail: EMAIL }))).toBeUndefined();
  for (const host of ["ci.example.com", "CI.example.com", "a.build.example.com"]) {
    expect(await whyNot(signed, pki({ subjectHostname: host }))).toBeUndefined();
  }
  for (const host of ["example.com", "a.b.build.example.com", "build.example.com"]) {
    expect(await whyNot(signed, pki({ subjectHostname: host }))).toContain("not for the host");
  }
  expect(await whyNot(signed, pki({ subjectEmail: "x@example.com" }))).toContain(EMAIL);
  const both = pki({ subjectEmail: EMAIL, subjectHostname: "x.org" });
  expect(await whyNot(signed, both)).toContain("not for the host");
  const bare = pki({ subjectEmail: EMAIL, caIntermediatesData: undefined });
  expect(await whyNot(signed, bare)).toContain("by another CA");
  const [from, until] = [now - 50 * HOUR, now - 49 * HOUR];
  const past = ca.issue("past", { issuer: middle, extensions, from, until });
  const old = signKeyless(PAYLOAD, past, log, { integratedTime: from + 60 });
  expect(await whyNot(old, pki({ subjectEmail: EMAIL }))).toContain("was not valid");
});

test("of many signatures each is checked in a turn of its own, and no certificate is longer than any", async () => {
  const long = dev.certificate.replace("\n-----END", `\n${"A".repeat(12 * 1024)}\n-----END`);
  const one = { ...signKeyless(PAYLOAD, dev, log), certificate: long };
  let turns = 0;
  let done = false;
  const count = () => {
    turns += 1;
    if (!done) setImmediate(count);
  };
  setImmediate(count);
  const requirements = requirementsOf(logged({ fulcio: fulcio() }));
  const evidence = { digests: [DIGEST], signatures: Array(20).fill(one) };
  await expect(requireTrust(requirements, REFERENCE, evidence)).rejects.toMatchObject({
    message: expect.stringContaining("more than 12288 characters"),
  });
  done = true;
  expect(turns).toBeGreaterThanOrEqual(20);
});

test.each<[string, () => object]>([
  ["fulcio without a log", () => ({ fulcio: fulcio() })],
  ["a log's key that cannot be read", () => ({ keyData: "QQ==", rekorPublicKeyData: "QQ==" })],
  ["a CA without certificates", () => logged({ fulcio: fulcio({ caData: "QQ==" }) })],
  [
    "a file that is not there",
    () => logged({ fulcio: fulcio({ caData: undefined, caPath: "/no/such" }) }),
  ],
  ["two CAs", () => logged({ fulcio: fulcio({ caPath: "/x" }) })],
  ["no e-mail address", () => logged({ fulcio: fulcio({ subjectEmail: "" }) })],
  ["both a key and fulcio", () => logged({ fulcio: fulcio(), keyPath: "/x" })],
  ["two kinds of log keys", () => ({ ...logged({ fulcio: fulcio() }), rekorPublicKeyPath: "/x" })],
  [
    "an own CA and a log",
    () => logged({ pki: { caRootsData: base64(root.certificate), subjectEmail: EMAIL } }),
  ],
  ["an own CA for anybody", () => ({ pki: { caRootsData: base64(root.certificate) } })],
])("a policy with %s lets nothing through", async (_, requirement) => {
  const evidence = { digests: [DIGEST], signatures: [signKeyless(PAYLOAD, dev, log)] };
  const trusted = (async () => requireTrust(requirementsOf(requirement()), REFERENCE, evidence))();
  await expect(trusted).rejects.toMatchObject({ code: "FailedPrecondition" });
});

function logged(requirement: object): object {
  return { rekorPublicKeyData: base64(log.publicKey), ...requirement };
}
