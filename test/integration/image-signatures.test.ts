/** How much of signatures is read and kept. What they are worth is judged in image-trust.test.ts. */
import { afterEach, beforeAll, beforeEach, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { imageNode } from "../fixtures/image-node.ts";
import { type Pushed, pushBlob, pushImage } from "../fixtures/registry.ts";
import { type RegistryProxy, startProxy } from "../fixtures/registry-proxy.ts";

const node = imageNode();
let pushed: Pushed;
let lookaside: RegistryProxy;
/** What signature-1 and the others are. */
let answer: (number: number) => Buffer | undefined;

beforeAll(async () => {
  pushed = await pushImage(node.registry, "signed:1", { layers: [[{ name: "a", data: "a" }]] });
});
beforeEach(() => {
  answer = () => undefined;
  lookaside = startProxy();
  lookaside.intercept = (_, url) => {
    const number = /\/signature-(\d+)$/.exec(url.pathname)?.[1];
    const bytes = number === undefined ? undefined : answer(Number(number));
    return bytes === undefined ? undefined : new Response(new Uint8Array(bytes));
  };
});
afterEach(() => lookaside.stop());

const at = (name: string) => join(node.store.directory, name);
function configure(docker: string, requirement: unknown): void {
  mkdirSync(at("registries.d"), { recursive: true });
  writeFileSync(at("registries.d/a.yaml"), `default-docker:\n  ${docker}\n`);
  writeFileSync(at("policy.json"), JSON.stringify({ default: [requirement] }));
}
const ANYTHING = { type: "insecureAcceptAnything" };
const SIGNED_BY = { type: "signedBy", keyType: "GPGKeys", keyData: "eA==" };
const SIGSTORE = { type: "sigstoreSigned", keyData: "eA==" };
const pull = () => node.store.images.pull(node.throughProxy(pushed));

/** Those that are kept with the image. */
function kept(): unknown[] {
  const rows = node.store.database.query("SELECT record FROM image_sources").all();
  const [row] = rows as Array<{ record: string }>;
  return JSON.parse(row?.record ?? "{}").signatures;
}

/** A policy that wants signatures refuses the image; one that wants none gets it without. */
async function expectNone(docker: string, wanting: unknown, message: string): Promise<void> {
  configure(docker, wanting);
  const error = await pull().catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ message: expect.stringContaining(message) });
  expect(node.store.images.list()).toEqual([]);
  configure(docker, ANYTHING);
  expect(await pull()).toMatchObject({ id: pushed.id });
  expect(kept()).toEqual([]);
}

test("128 signatures are kept, an endless number is asked for no further", async () => {
  const docker = `lookaside: http://${lookaside.host}`;
  configure(docker, ANYTHING);
  answer = (number) => (number <= 128 ? Buffer.from("x") : undefined);
  await pull();
  expect(kept()).toHaveLength(128);
  await node.store.images.remove(pushed.id);
  answer = () => Buffer.from("x");
  lookaside.requests.length = 0;
  await expectNone(docker, SIGNED_BY, "signature-129: the image has more than 128");
  expect(lookaside.requests).toHaveLength(2 * 129);
});

test("a signature on a server that is longer than 128 KiB is read no further", async () => {
  answer = (number) => (number === 1 ? Buffer.alloc(131_073) : undefined);
  const docker = `lookaside: http://${lookaside.host}`;
  await expectNone(docker, SIGNED_BY, "signature-1: longer than 131072 bytes");
});

test("a signature on this node that is longer than 128 KiB is not read", async () => {
  const directory = at(`sigs/signed@${pushed.digest.replace(":", "=")}`);
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "signature-1"), Buffer.alloc(131_073));
  const docker = `lookaside: file://${node.store.directory}/sigs`;
  await expectNone(docker, SIGNED_BY, "signature-1: EFBIG: larger than 131072 bytes");
});

test.each([
  ["a payload", Buffer.alloc(131_073), {}, "131073 bytes, at most 131072"],
  [
    "a chain",
    Buffer.from("x"),
    { "dev.sigstore.cosign/chain": "x".repeat(131_072) },
    "131074 bytes with",
  ],
])("%s in a registry that is longer than 128 KiB is refused", async (_, payload, more, message) => {
  const layer = {
    mediaType: "application/vnd.dev.cosign.simplesigning.v1+json",
    ...(await pushBlob(node.registry, "signed", payload)),
    annotations: { "dev.cosignproject.cosign/signature": "x", ...more },
  };
  await pushImage(node.registry, `signed:${pushed.digest.replace(":", "-")}.sig`, {
    layers: [],
    alterManifest: (manifest) => {
      manifest.layers = [layer];
    },
  });
  await expectNone("use-sigstore-attachments: true", SIGSTORE, message);
});
