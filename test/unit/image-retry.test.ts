/** When a registry that is busy is asked again. Nothing here waits: what would be waited is noted. */
import { afterEach, beforeEach, expect, mock, spyOn, test } from "bun:test";
import { createHash } from "node:crypto";
import { retry, streamBlob } from "../../src/image/blob.ts";
import { RegistryClient } from "../../src/image/registry.ts";
import { type RegistryProxy, startProxy } from "../fixtures/registry-proxy.ts";

const { signal } = new AbortController();
const BYTES = new Uint8Array(1000).fill(7);
const DIGEST = `sha256:${createHash("sha256").update(BYTES).digest("hex")}`;

let server: RegistryProxy;
let client: RegistryClient;
let waits: number[];
const wait = async (durationMs: number) => {
  waits.push(durationMs);
};

beforeEach(() => {
  waits = [];
  server = startProxy();
  const source = { host: server.host, repository: "app", insecure: true, mirror: false };
  client = newClient(source);
});
afterEach(async () => {
  mock.restore();
  await server.stop();
});

function newClient(source: RegistryClient["source"]): RegistryClient {
  const credentials = async () => undefined;
  return new RegistryClient({ source, credentials, noProgressMs: 10_000, signal });
}

/** The next requests for the manifest or the blob get these answers, then all get `last`. */
function answers(refusals: ReadonlyArray<[number, string?]>, last: () => Response): void {
  const left = [...refusals];
  server.intercept = (_, url) => {
    if (url.pathname === "/v2/") return new Response("{}");
    const next = left.shift();
    if (next === undefined) return last();
    const [status, retryAfter] = next;
    const headers: Record<string, string> =
      retryAfter === undefined ? {} : { "Retry-After": retryAfter };
    return new Response("busy", { status, headers });
  };
}
const manifest = () => new Response("{}", { headers: { "Content-Type": "application/json" } });
const askManifest = () => retry(4, signal, () => client.manifest("1"), wait);
async function askBlob(): Promise<number> {
  const descriptor = { digest: DIGEST, size: BYTES.length };
  let bytes = 0;
  for await (const chunk of streamBlob([client], descriptor, signal, wait)) bytes += chunk.length;
  return bytes;
}

test.each([
  [0, [150, 300, 600]],
  [0.5, [200, 400, 800]],
  [1, [250, 500, 1000]],
])(
  "without Retry-After each wait is twice the last, spread by a quarter (random %d)",
  async (random, expected) => {
    spyOn(Math, "random").mockReturnValue(random);
    answers([[503], [429], [500]], manifest);
    await askManifest();
    expect(waits).toEqual(expected);
    waits = [];
    answers([[503], [429], [500]], () => new Response(BYTES));
    expect(await askBlob()).toBe(BYTES.length);
    expect(waits).toEqual(expected);
  },
);

test("waits are spread out: no two of many are the same", async () => {
  for (let count = 0; count < 20; count++) {
    answers([[503]], manifest);
    await askManifest();
  }
  expect(new Set(waits).size).toBe(20);
});

test.each([429, 503])(
  "Retry-After of a %d is waited, where it is longer than that",
  async (status) => {
    spyOn(Math, "random").mockReturnValue(0.5);
    answers(
      [
        [status, "7"],
        [status, "0"],
        [status, "31"],
      ],
      manifest,
    );
    await askManifest();
    expect(waits).toEqual([7000, 400, 30_000]);
    waits = [];
    answers(
      [
        [status, "7"],
        [status, "0"],
        [status, "31"],
      ],
      () => new Response(BYTES),
    );
    expect(await askBlob()).toBe(BYTES.length);
    expect(waits).toEqual([7000, 400, 30_000]);
  },
);

test("after the fourth refusal it is over; what is no use to ask again is not", async () => {
  answers([[503], [503], [503], [503]], manifest);
  await expect(askManifest()).rejects.toMatchObject({ code: "Unavailable" });
  expect(waits).toHaveLength(3);
  answers([[503], [503], [503], [503]], () => new Response(BYTES));
  await expect(askBlob()).rejects.toMatchObject({ code: "Unavailable" });
  expect(waits).toHaveLength(6);
  answers([[404]], manifest);
  await expect(askManifest()).rejects.toMatchObject({ code: "NotFound" });
  expect(waits).toHaveLength(6);
});

test("bytes that come begin the waits anew: a long download survives many broken connections", async () => {
  spyOn(Math, "random").mockReturnValue(0.5);
  let requests = 0;
  server.intercept = (request, url) => {
    if (url.pathname === "/v2/") return new Response("{}");
    const from = Number(/=(\d+)-/.exec(request.headers.get("range") ?? "")?.[1] ?? 0);
    requests += 1;
    if (requests % 2 === 0) return new Response("busy", { status: 503 });
    const rest = BYTES.slice(from, from + 100);
    const headers = { "Content-Range": `bytes ${from}-${from + rest.length - 1}/${BYTES.length}` };
    return new Response(rest, { status: from === 0 ? 200 : 206, headers });
  };
  expect(await askBlob()).toBe(BYTES.length);
  // A short answer, a refusal; nine times, and the last piece.
  expect(waits).toEqual(Array.from({ length: 9 }, () => [200, 400]).flat());
});

test("a wait ends with its pull", async () => {
  const controller = new AbortController();
  answers([[429, "30"]], manifest);
  const asked = retry(4, controller.signal, () => client.manifest("1"));
  while (server.requests.filter((line) => line.includes("manifests")).length === 0) {
    await Bun.sleep(2);
  }
  controller.abort();
  await expect(asked).rejects.toMatchObject({ code: "Canceled" });
  expect(server.requests.filter((line) => line.includes("manifests"))).toHaveLength(1);
});
