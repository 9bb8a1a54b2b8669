import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exemptLoopback, retryAfterMs } from "../../src/image/http.ts";
import { makeCa, makeCertificate } from "../fixtures/certificates.ts";
import { openTestStore, type TestStore } from "../fixtures/image-store.ts";
import { pushImage, type Registry, startRegistry } from "../fixtures/registry.ts";
import { startProxy } from "../fixtures/registry-proxy.ts";

let pki: string;
let store: TestStore;
let registry: Registry | undefined;
beforeAll(() => {
  pki = mkdtempSync(join(tmpdir(), "crib-pki-"));
  makeCa(pki, "ca");
  makeCertificate(pki, "server", "ca");
  makeCa(pki, "clients");
  makeCertificate(pki, "client", "clients");
});
afterAll(() => rmSync(pki, { recursive: true }));
beforeEach(async () => {
  store = await openTestStore();
});
afterEach(async () => {
  await registry?.stop();
  registry = undefined;
  store.close();
});

async function start(clientCa?: string): Promise<void> {
  const path = (name: string) => join(pki, name);
  const read = (name: string) => readFileSync(path(name), "utf8");
  registry = await startRegistry({
    tls: { certificate: path("server.crt"), key: path("server.key"), clientCa },
    pushTls: { cert: read("client.crt"), key: read("client.key") },
  });
  await pushImage(registry, "app:1", { layers: [[{ name: "a", data: "tls" }]] });
}

/** Loopback is exempt from checks, as in Docker; this address leads there, but is not exempt. */
const host = () => `0.0.0.0:${registry?.host.split(":")[1]}`;
const pull = () => store.images.pull(`${host()}/app:1`);

/** Puts files into the registry's directory of certs.d. */
function certsD(host: string, files: Record<string, string>): void {
  const directory = join(store.directory, "certs.d", host);
  mkdirSync(directory, { recursive: true });
  for (const [to, from] of Object.entries(files)) {
    copyFileSync(join(pki, from), join(directory, to));
  }
}

test("a registry with a CA of its own is not trusted before certs.d has that CA", async () => {
  await start();
  await expect(pull()).rejects.toMatchObject({ code: "Unavailable" });
  certsD(host(), { "other.crt": "clients.crt" });
  await expect(pull()).rejects.toMatchObject({ code: "Unavailable" });
  certsD(host(), { "own.crt": "ca.crt" });
  expect((await pull()).repoTags).toEqual([`${host()}/app:1`]);
});

test("an insecure registry is not checked", async () => {
  await start();
  store.configure(`[[registry]]\nlocation = "${host()}"\ninsecure = true`);
  expect((await pull()).repoTags).toHaveLength(1);
});

test("a client certificate of certs.d is shown to the registry that wants one", async () => {
  await start(join(pki, "clients.crt"));
  certsD(host(), { "ca.crt": "ca.crt" });
  await expect(pull()).rejects.toMatchObject({ code: "Unavailable" });
  certsD(host(), { "me.cert": "client.crt", "me.key": "client.key" });
  expect((await pull()).repoTags).toHaveLength(1);
});

test("what holds for an insecure registry and its client certificate holds for no other host", async () => {
  await start(join(pki, "clients.crt"));
  const front = startProxy();
  // An insecure registry (it is on loopback) that sends its callers to a host that is none.
  front.intercept = (_, url) => Response.redirect(`https://${host()}${url.pathname}`, 307);
  try {
    const name = `${front.host}/app:1`;
    const refused = { code: "Unavailable" };
    await expect(store.images.pull(name)).rejects.toMatchObject(refused);
    certsD(front.host, { "ca.crt": "ca.crt", "me.cert": "client.crt", "me.key": "client.key" });
    await expect(store.images.pull(name)).rejects.toMatchObject(refused);
    certsD(host(), { "me.cert": "client.crt", "me.key": "client.key" });
    expect((await store.images.pull(name)).repoTags).toEqual([name]);
  } finally {
    await front.stop();
  }
}, 20_000);

test("a proxy of the environment is used, but not for this machine and not for NO_PROXY", async () => {
  const plain = await startRegistry();
  const proxy = startProxy(plain.host);
  const saved = { ...process.env };
  try {
    const { name, id } = await pushImage(plain, "app:1", { layers: [[{ name: "a", data: "p" }]] });
    process.env.HTTP_PROXY = `http://${proxy.host}`;
    process.env.HTTPS_PROXY = `http://127.0.0.1:1`;
    expect((await store.images.pull(name)).id).toBe(id);
    expect(proxy.requests).toEqual([]);
    // An address, on which nobody listens: a look-up of a name would wait for a server of names.
    store.configure('[[registry]]\nlocation = "0.0.0.0:1"\ninsecure = true');
    expect((await store.images.pull("0.0.0.0:1/app:1")).id).toBe(id);
    expect(proxy.requests).toContain("GET /v2/app/manifests/1");
    process.env.NO_PROXY = "0.0.0.0";
    await expect(store.images.pull("0.0.0.0:1/app:1")).rejects.toMatchObject({
      code: "Unavailable",
    });
  } finally {
    for (const key of ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"]) {
      if (saved[key] === undefined) delete process.env[key];
      else process.env[key] = saved[key];
    }
    await proxy.stop();
    await plain.stop();
  }
});

test("https goes through a proxy by CONNECT, which learns no more than host and port", async () => {
  await start();
  certsD(host(), { "ca.crt": "ca.crt" });
  const asked: string[] = [];
  const tunnel = createServer((client) => {
    client.once("data", (head) => {
      asked.push(head.toString().split("\r\n")[0] ?? "");
      const upstream = connect(Number(registry?.host.split(":")[1]), "127.0.0.1", () => {
        client.write("HTTP/1.1 200 OK\r\n\r\n");
        client.pipe(upstream).pipe(client);
      });
      upstream.on("error", () => client.destroy());
      client.on("error", () => upstream.destroy());
    });
  });
  await new Promise<void>((done) => tunnel.listen(0, "127.0.0.1", done));
  process.env.HTTPS_PROXY = `http://127.0.0.1:${(tunnel.address() as AddressInfo).port}`;
  try {
    expect((await pull()).repoTags).toHaveLength(1);
    expect(new Set(asked)).toEqual(new Set([`CONNECT ${host()} HTTP/1.1`]));
  } finally {
    delete process.env.HTTPS_PROXY;
    tunnel.close();
  }
});

test("loopback is added to the list of what no proxy is asked for, once", () => {
  const env: Record<string, string | undefined> = { no_proxy: "a.io" };
  exemptLoopback(env);
  exemptLoopback(env);
  expect(env).toEqual({ no_proxy: "a.io,localhost,127.0.0.0/8,::1" });
});

test("a registry that is asked too much is asked again when it says", async () => {
  const plain = await startRegistry();
  const proxy = startProxy(plain.host);
  try {
    const { name, id } = await pushImage(plain, "app:1", { layers: [[{ name: "a", data: "4" }]] });
    const refused = new Map<string, number>();
    const cameAgainMs = new Map<string, number>();
    proxy.intercept = (_, url) => {
      if (!/manifests|blobs/.test(url.pathname)) return undefined;
      const since = refused.get(url.pathname);
      if (since !== undefined) {
        cameAgainMs.set(url.pathname, performance.now() - since);
        return undefined;
      }
      refused.set(url.pathname, performance.now());
      return new Response("slow down", { status: 429, headers: { "Retry-After": "1" } });
    };
    const image = await store.images.pull(name.replace(plain.host, proxy.host));
    expect(image.id).toBe(id);
    expect(cameAgainMs.size).toBe(3);
    for (const ms of cameAgainMs.values()) expect(ms).toBeGreaterThanOrEqual(990);
  } finally {
    await proxy.stop();
    await plain.stop();
  }
}, 20_000);

test.each([
  ["3", 3000],
  ["100000", 30_000],
  ["Thu, 01 Jan 1970 00:00:05 GMT", 4000],
  ["Thu, 01 Jan 1970 00:00:00 GMT", 0],
  ["soon", 0],
  ["-5", 0],
  ["", 0],
  [null, 0],
])("Retry-After %j is %d ms from the second 1", (header, expected) => {
  expect(retryAfterMs(header, 1000)).toBe(expected);
});
