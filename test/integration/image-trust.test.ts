import { afterAll, beforeAll, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { SigstoreSignature } from "../../src/image/signature.ts";
import { imageNode } from "../fixtures/image-node.ts";
import { type Pushed, pushBlob, pushImage, pushIndex, sha256 } from "../fixtures/registry.ts";
import { startProxy } from "../fixtures/registry-proxy.ts";
import {
  CA_EXTENSIONS,
  personExtensions,
  signKeyless,
  TestCa,
  TestLog,
} from "../fixtures/sigstore.ts";

const node = imageNode();
let gpgHome: string;
let pushed: Pushed;
const gpg = (input: Buffer | string, ...argv: string[]) =>
  execFileSync("gpg", ["--homedir", gpgHome, "--batch", "--no-tty", "-q", ...argv], {
    input,
    stdio: ["pipe", "pipe", "ignore"],
  });

beforeAll(async () => {
  pushed = await pushImage(node.registry, "team/app:1", { layers: [[{ name: "a", data: "a" }]] });
  gpgHome = mkdtempSync(join(tmpdir(), "crib-gpg-"));
  for (const [user, expires] of [
    ["good@x", "0"],
    ["other@x", "0"],
    ["short@x", "seconds=1"],
  ]) {
    gpg("", "--passphrase", "", "--quick-gen-key", user ?? "", "ed25519", "sign", expires ?? "");
  }
});
afterAll(async () => {
  execFileSync("gpgconf", ["--homedir", gpgHome, "--kill", "all"]);
  // Its agents remove their sockets at the same time.
  rmSync(gpgHome, { recursive: true, force: true, maxRetries: 3 });
});

const path = (name: string) => join(node.store.directory, name);
const name = () => `${node.proxy.host}/team/app:1`;
const policy = (requirement: unknown, file = "policy.json") => {
  mkdirSync(path("policies"), { recursive: true });
  const docker = { [`${node.proxy.host}/team`]: [requirement] };
  writeFileSync(
    path(file),
    JSON.stringify({ default: [{ type: "reject" }], transports: { docker } }),
  );
};
const registriesD = (section: string) => {
  mkdirSync(path("registries.d"), { recursive: true });
  writeFileSync(path("registries.d/a.yaml"), `default-docker:\n  ${section}\n`);
};
const blobs = () =>
  node.proxy.requests.filter((line) => pushed.layers.some((l) => line.includes(l.digest)));

function claim(type: string, digest: string, reference: string): Buffer {
  return Buffer.from(
    JSON.stringify({
      critical: {
        type,
        image: { "docker-manifest-digest": digest },
        identity: { "docker-reference": reference },
      },
      optional: {},
    }),
  );
}

/** Expects a refusal that the kubelet knows, before any layer, with nothing left. */
async function expectRefused(why: string, pull = node.store.images.pull(name())): Promise<void> {
  const error = await pull.catch((thrown: Error) => thrown);
  expect(error).toMatchObject({ code: "PermissionDenied" });
  expect(String(error)).toStartWith("CribError: SignatureValidationFailed: ");
  expect(String(error)).toContain(why);
  expect(blobs()).toEqual([]);
  expect(node.store.layerDirectories()).toEqual([]);
}

test("what the policy rejects is not even asked for", async () => {
  policy({ type: "insecureAcceptAnything" });
  expect((await node.store.images.pull(name())).id).toBe(pushed.id);
  await node.store.images.remove(name());
  node.proxy.requests.length = 0;
  policy({ type: "reject" });
  await expectRefused("it is rejected");
  expect(node.proxy.requests).toEqual([]);
});

test("a broken or missing policy lets nothing through", async () => {
  writeFileSync(path("policy.json"), "{");
  await expect(node.store.images.pull(name())).rejects.toMatchObject({
    code: "FailedPrecondition",
  });
  rmSync(path("policy.json"));
  await expect(node.store.images.pull(name())).rejects.toMatchObject({
    code: "FailedPrecondition",
  });
});

/** Puts signature-1, -2, … into the lookaside directory. */
function lookaside(digest: string, signatures: readonly Uint8Array[]): void {
  const directory = path(`sigs/team/app@${digest.replace(":", "=")}`);
  mkdirSync(directory, { recursive: true });
  signatures.forEach((bytes, index) => {
    writeFileSync(join(directory, `signature-${index + 1}`), bytes);
  });
}
const SIMPLE = "atomic container signature";
const gpgSign = (user: string, payload: Buffer) => gpg(payload, "-u", user, "--sign", "-o", "-");
const signedBy = (more: Record<string, unknown> = {}) => {
  writeFileSync(path("good.gpg"), gpg("", "--export", "good@x"));
  return { type: "signedBy", keyType: "GPGKeys", keyPath: path("good.gpg"), ...more };
};

test("signedBy accepts an image that a key of the ring has signed under its name", async () => {
  registriesD(`lookaside: file://${node.store.directory}/sigs`);
  policy(signedBy());
  await expectRefused("it has no signature");
  lookaside(pushed.digest, [gpgSign("other@x", claim(SIMPLE, pushed.digest, name()))]);
  await expectRefused("another key");
  lookaside(pushed.digest, [gpgSign("good@x", claim(SIMPLE, sha256(Buffer.from("x")), name()))]);
  await expectRefused("it is for sha256");
  lookaside(pushed.digest, [gpgSign("good@x", claim(SIMPLE, pushed.digest, `${name()}0`))]);
  await expectRefused("/team/app:10");
  lookaside(pushed.digest, [
    gpgSign("other@x", claim(SIMPLE, pushed.digest, name())),
    gpgSign("good@x", claim(SIMPLE, pushed.digest, name())),
  ]);
  expect((await node.store.images.pull(name())).id).toBe(pushed.id);
});

test("keys in ASCII and in the policy itself count; several requirements must all be met", async () => {
  registriesD(`lookaside: file://${node.store.directory}/sigs`);
  lookaside(pushed.digest, [gpgSign("good@x", claim(SIMPLE, pushed.digest, name()))]);
  const armored = gpg("", "--armor", "--export", "good@x");
  policy(signedBy({ keyPath: undefined, keyData: armored.toString("base64") }));
  expect((await node.store.images.pull(name())).id).toBe(pushed.id);
  await node.store.images.remove(name());
  node.proxy.requests.length = 0;
  const other = gpg("", "--export", "other@x").toString("base64");
  const scope = `${node.proxy.host}/team`;
  const both = [signedBy(), signedBy({ keyPath: undefined, keyData: other })];
  const text = { default: [{ type: "reject" }], transports: { docker: { [scope]: both } } };
  writeFileSync(path("policy.json"), JSON.stringify(text));
  await expectRefused("another key");
});

test("what is not one good, living signature over the payload is none", async () => {
  registriesD(`lookaside: file://${node.store.directory}/sigs`);
  policy(signedBy());
  const payload = claim(SIMPLE, pushed.digest, name());
  const good = gpgSign("good@x", payload);
  const changed = Buffer.from(good);
  changed.writeUInt8(changed.readUInt8(changed.length - 5) ^ 1, changed.length - 5);
  for (const bytes of [
    Buffer.from("junk"),
    payload,
    gpg(payload, "--store", "-o", "-"),
    gpg(payload, "-u", "good@x", "--detach-sign", "-o", "-"),
    gpg(payload, "-u", "good@x", "-u", "other@x", "--sign", "-o", "-"),
    changed,
    Buffer.concat([gpg(claim(SIMPLE, pushed.digest, name()), "--store", "-o", "-"), good]),
    good.subarray(0, good.length - 20),
  ]) {
    lookaside(pushed.digest, [bytes]);
    await expectRefused("no signature is accepted");
  }
});

test("a signature by an expired key is refused", async () => {
  registriesD(`lookaside: file://${node.store.directory}/sigs`);
  const time = `${new Date().getFullYear() - 1}0101T000000`;
  gpg(
    "",
    "--faked-system-time",
    `${time}!`,
    "--passphrase",
    "",
    "--quick-gen-key",
    "past@x",
    "ed25519",
    "sign",
    "1m",
  );
  const payload = claim(SIMPLE, pushed.digest, name());
  const bytes = gpg(
    payload,
    "--faked-system-time",
    `${time}!`,
    "-u",
    "past@x",
    "--sign",
    "-o",
    "-",
  );
  lookaside(pushed.digest, [bytes]);
  const keyData = gpg("", "--export", "past@x").toString("base64");
  policy(signedBy({ keyPath: undefined, keyData }));
  await expectRefused("expired");
});

test("skopeo's signature is accepted, from a lookaside server", async () => {
  const fingerprint = gpg("", "--with-colons", "--list-keys", "good@x")
    .toString()
    .match(/fpr:+(\w+)/)?.[1];
  const answer = await fetch(`http://${node.registry.host}/v2/team/app/manifests/1`, {
    headers: { Accept: pushed.mediaType },
  });
  writeFileSync(path("manifest"), new Uint8Array(await answer.arrayBuffer()));
  execFileSync(
    "skopeo",
    ["standalone-sign", "-o", path("signature"), path("manifest"), name(), fingerprint ?? ""],
    { env: { ...process.env, GNUPGHOME: gpgHome }, stdio: "ignore" },
  );
  const signature = readFileSync(path("signature"));
  const server = startProxy();
  const wanted = `/base/team/app@${pushed.digest.replace(":", "=")}/signature-1`;
  server.intercept = (_, url) =>
    decodeURIComponent(url.pathname) === wanted ? new Response(signature) : undefined;
  try {
    registriesD(`lookaside: http://${server.host}/base`);
    policy(signedBy());
    expect((await node.store.images.pull(name())).id).toBe(pushed.id);
    expect(server.requests).toHaveLength(2);
  } finally {
    await server.stop();
  }
});

const COSIGN = "cosign container image signature";

/** Attaches signatures as `cosign sign` does: the tag sha256-HEX.sig. */
async function attach(digest: string, signatures: readonly SigstoreSignature[]): Promise<void> {
  const layers: unknown[] = [];
  for (const { payload, signature, certificate, chain, bundle } of signatures) {
    layers.push({
      mediaType: "application/vnd.dev.cosign.simplesigning.v1+json",
      ...(await pushBlob(node.registry, "team/app", Buffer.from(payload, "base64"))),
      annotations: {
        "dev.cosignproject.cosign/signature": signature,
        ...(certificate && { "dev.sigstore.cosign/certificate": certificate }),
        ...(chain && { "dev.sigstore.cosign/chain": chain }),
        ...(bundle && { "dev.sigstore.cosign/bundle": bundle }),
      },
    });
  }
  await pushImage(node.registry, `team/app:${digest.replace(":", "-")}.sig`, {
    layers: [],
    alterManifest: (manifest) => {
      manifest.layers = layers;
    },
  });
}

async function cosign(digest: string, key: KeyObject, payloads: readonly Buffer[]): Promise<void> {
  const algorithm = key.asymmetricKeyType === "ed25519" ? null : "sha256";
  const signatures = payloads.map((payload) => ({
    kind: "sigstore" as const,
    payload: payload.toString("base64"),
    signature: sign(algorithm, payload, key).toString("base64"),
  }));
  await attach(digest, signatures);
}
const pem = (key: KeyObject) => Buffer.from(key.export({ type: "spki", format: "pem" }));
const sigstore = (key: KeyObject, type = "matchRepository") => ({
  type: "sigstoreSigned",
  keyData: pem(key).toString("base64"),
  signedIdentity: { type },
});

test.each([
  ["P-256", () => generateKeyPairSync("ec", { namedCurve: "P-256" })],
  ["RSA", () => generateKeyPairSync("rsa", { modulusLength: 2048 })],
  ["Ed25519", () => generateKeyPairSync("ed25519")],
])("sigstoreSigned accepts what a %s key has signed, and nothing else", async (_, generate) => {
  const { publicKey, privateKey } = generate();
  const image = await pushImage(node.registry, "team/app:2", {
    layers: [[{ name: "k", data: String(Math.random()) }]],
  });
  const two = `${node.proxy.host}/team/app:2`;
  policy(sigstore(publicKey));
  const repository = `${node.proxy.host}/team/app`;
  await cosign(image.digest, privateKey, [claim(COSIGN, image.digest, repository)]);
  await expectRefused("it has no signature", node.store.images.pull(two));
  registriesD("use-sigstore-attachments: true");
  expect((await node.store.images.pull(two)).id).toBe(image.id);
  await node.store.images.remove(two);
  policy(sigstore(publicKey, "matchExact"));
  await expectRefused("it is for", node.store.images.pull(two));
  policy(sigstore(generate().publicKey));
  await expectRefused("another key", node.store.images.pull(two));
  policy(sigstore(publicKey));
  await cosign(image.digest, privateKey, [claim(COSIGN, pushed.digest, repository)]);
  await expectRefused(`it is for ${pushed.digest}`, node.store.images.pull(two));
  await cosign(image.digest, privateKey, [claim(SIMPLE, image.digest, repository)]);
  await expectRefused("payload", node.store.images.pull(two));
});

test("a signature of the index, or of the image below it, is enough", async () => {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  registriesD("use-sigstore-attachments: true");
  policy(sigstore(publicKey));
  for (const which of ["index", "image"]) {
    const image = await pushImage(node.registry, `team/app:${which}`, {
      layers: [[{ name: "w", data: which }]],
    });
    const { digest, size, mediaType } = image;
    const index = await pushIndex(node.registry, `team/app:${which}`, [
      { digest, size, mediaType },
    ]);
    await expectRefused(
      "no signature",
      node.store.images.pull(`${node.proxy.host}/team/app:${which}`),
    );
    const signed = which === "index" ? index.digest : digest;
    await cosign(signed, privateKey, [claim(COSIGN, signed, `${node.proxy.host}/team/app`)]);
    const pulled = await node.store.images.pull(`${node.proxy.host}/team/app:${which}`);
    expect(pulled.id).toBe(image.id);
    await node.store.images.remove(pulled.id);
  }
});

test("a keyless signature is read from the registry, kept, and judged again without it", async () => {
  const issuer = "https://accounts.example.com";
  const ca = new TestCa(node.store.directory);
  const log = new TestLog();
  const root = ca.issue("root", { extensions: CA_EXTENSIONS });
  const middle = ca.issue("middle", { issuer: root, extensions: CA_EXTENSIONS });
  const extensions = personExtensions("dev@example.com", issuer);
  const dev = ca.issue("dev", { issuer: middle, extensions });
  const image = await pushImage(node.registry, "team/app:3", {
    layers: [[{ name: "k", data: "keyless" }]],
  });
  const three = `${node.proxy.host}/team/app:3`;
  writeFileSync(path("ca.pem"), root.certificate);
  writeFileSync(path("rekor.pub"), log.publicKey);
  const requirement = (subjectEmail: string) => ({
    type: "sigstoreSigned",
    fulcio: { caPath: path("ca.pem"), oidcIssuer: issuer, subjectEmail },
    rekorPublicKeyPath: path("rekor.pub"),
    signedIdentity: { type: "matchRepository" },
  });
  registriesD("use-sigstore-attachments: true");
  policy(requirement("dev@example.com"));
  const payload = claim(COSIGN, image.digest, `${node.proxy.host}/team/app`);
  const signature = signKeyless(payload, dev, log, { chain: middle.certificate });
  await attach(image.digest, [{ ...signature, bundle: undefined }]);
  await expectRefused("no entry of a Rekor log", node.store.images.pull(three));
  await attach(image.digest, [signature]);
  const pulled = await node.store.images.pull(three);
  expect(pulled.id).toBe(image.id);
  const reopened = await node.store.reopen();
  await node.proxy.stop();
  await reopened.verify(pulled, three, "");
  policy(requirement("boss@example.com"));
  await expect(reopened.verify(pulled, three, "")).rejects.toThrow("dev@example.com");
});

test.each([
  ["to another host is followed", "elsewhere", ""],
  ["to a file is not followed", "file:///etc/passwd", "redirects to"],
  ["to itself for ever is an error", "itself", "more than 5 redirects"],
])("a lookaside server that redirects %s", async (_, target, refusal) => {
  const bytes = gpgSign("good@x", claim(SIMPLE, pushed.digest, name()));
  const other = startProxy();
  other.intercept = (_request, url) =>
    url.pathname === "/elsewhere" ? new Response(new Uint8Array(bytes)) : undefined;
  const server = startProxy();
  server.intercept = (_request, url) => {
    if (url.pathname.endsWith("signature-2")) return undefined;
    const places: Record<string, string> = {
      elsewhere: `http://${other.host}/elsewhere`,
      itself: url.href,
    };
    return new Response(null, { status: 302, headers: { Location: places[target] ?? target } });
  };
  try {
    registriesD(`lookaside: http://${server.host}/base`);
    policy(signedBy());
    const pull = node.store.images.pull(name());
    if (refusal === "") expect((await pull).id).toBe(pushed.id);
    else {
      await expect(pull).rejects.toMatchObject({
        code: "FailedPrecondition",
        message: expect.stringContaining(refusal),
      });
      expect(server.requests.length).toBeLessThanOrEqual(6);
    }
  } finally {
    await server.stop();
    await other.stop();
  }
});

test("a namespace's policy holds at the pull, and again for an image that is there", async () => {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  registriesD("use-sigstore-attachments: true");
  policy({ type: "insecureAcceptAnything" });
  policy({ type: "reject" }, "policies/closed.json");
  policy(sigstore(publicKey), "policies/strict.json");
  await expectRefused("it is rejected", node.store.images.pull(name(), { namespace: "closed" }));
  const image = await node.store.images.pull(name(), { namespace: "open" });
  await node.store.images.verify(image, name(), "open");
  for (const text of [name(), "", image.id, image.repoDigests[0] ?? ""]) {
    await expect(node.store.images.verify(image, text, "closed")).rejects.toThrow("Signature");
    await expect(node.store.images.verify(image, text, "strict")).rejects.toThrow("no signature");
  }
  await cosign(pushed.digest, privateKey, [
    claim(COSIGN, pushed.digest, `${node.proxy.host}/team/app`),
  ]);
  const again = await node.store.images.pull(name(), { namespace: "strict" });
  expect(again.id).toBe(image.id);
  // From what was kept: also by a daemon that was started again, with the registry gone.
  const reopened = await node.store.reopen();
  await node.proxy.stop();
  for (const text of [name(), "", image.id]) await reopened.verify(again, text, "strict");
  await expect(reopened.verify(again, "elsewhere.io/app:1", "strict")).rejects.toThrow("rejected");
});
