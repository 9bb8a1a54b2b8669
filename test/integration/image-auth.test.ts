import { afterEach, beforeEach, expect, test } from "bun:test";
import { openTestStore, type TestStore } from "../fixtures/image-store.ts";
import { type Pushed, pushImage, type Registry, startRegistry } from "../fixtures/registry.ts";
import { type RegistryProxy, startProxy } from "../fixtures/registry-proxy.ts";

/** "user:secret", made by `htpasswd -B`. */
const HTPASSWD = `user:${Bun.password.hashSync("secret", { algorithm: "bcrypt", cost: 4 })}`;
const BASIC = `Basic ${Buffer.from("user:secret").toString("base64")}`;
const AUTH = { username: "user", password: "secret" };

let proxy: RegistryProxy;
let store: TestStore;
let registry: Registry;
let pushed: Pushed;
beforeEach(async () => {
  store = await openTestStore();
});
afterEach(async () => {
  await proxy.stop();
  await registry.stop();
  store.close();
});

async function start(options: Parameters<typeof startRegistry>[0] = {}): Promise<void> {
  registry = await startRegistry(options);
  pushed = await pushImage(registry, "private:1", { layers: [[{ name: "a", data: "a" }]] });
  proxy = startProxy(registry.host);
}
const name = () => `${proxy.host}/private:1`;
const authorizations = (server: RegistryProxy = proxy) =>
  server.headers.map((headers) => headers.get("authorization")).filter((value) => value !== null);

test("a registry with Basic gets username and password, or auth, after it asked", async () => {
  await start({ htpasswd: HTPASSWD, authorization: BASIC });
  expect((await store.images.pull(name(), { auth: AUTH })).id).toBe(pushed.id);
  expect(new Set(authorizations())).toEqual(new Set([BASIC]));
  await store.images.remove(name());
  const auth = Buffer.from("user:secret").toString("base64");
  expect((await store.images.pull(name(), { auth: { auth } })).id).toBe(pushed.id);
});

test("without credentials, and with wrong ones, it is Unauthenticated; the password is not shown", async () => {
  await start({ htpasswd: HTPASSWD, authorization: BASIC });
  await expect(store.images.pull(name(), {})).rejects.toMatchObject({ code: "Unauthenticated" });
  const auth = { username: "user", password: "wrong-password" };
  const error = await store.images.pull(name(), { auth }).catch((thrown: Error) => thrown);
  expect(error).toMatchObject({ code: "Unauthenticated" });
  expect(String(error)).not.toContain("wrong-password");
});

test("credentials for another server are not sent", async () => {
  await start();
  await store.images.pull(name(), { auth: { ...AUTH, serverAddress: "other.example" } });
  expect(authorizations()).toEqual([]);
});

/** A registry behind a token server: both are the proxy. */
function askForTokens(tokenAnswer: (request: Request, url: URL) => Response | Promise<Response>) {
  proxy.intercept = (request, url) => {
    if (url.pathname === "/token") return tokenAnswer(request, url);
    if (request.headers.get("authorization") === "Bearer good") {
      request.headers.delete("authorization");
      return undefined;
    }
    const challenge = `Bearer realm="http://${proxy.host}/token",service="svc",scope="repository:private:pull"`;
    return new Response("", { status: 401, headers: { "WWW-Authenticate": challenge } });
  };
}

test("an anonymous token is fetched with service and scope, once", async () => {
  await start();
  const asked: string[] = [];
  askForTokens((_, url) => {
    asked.push(url.search);
    return Response.json({ token: "good" });
  });
  expect((await store.images.pull(name(), {})).id).toBe(pushed.id);
  expect(asked).toEqual(["?service=svc&scope=repository%3Aprivate%3Apull"]);
});

test("a token that expires during a pull is renewed, once for all layers that wait", async () => {
  await start();
  const layers = Array.from({ length: 6 }, (_, n) => [{ name: `f${n}`, data: `${n}` }]);
  const many = await pushImage(registry, "private:many", { layers });
  const digests = new Set(many.layers.map(({ digest }) => digest));
  let issued = 0;
  proxy.intercept = async (request, url) => {
    if (url.pathname === "/token") {
      issued += 1;
      const token = `token-${issued}`;
      // Long enough for all layers that are asked for at once to be refused.
      await Bun.sleep(200);
      return Response.json({ token });
    }
    // The first one has expired when the layers are asked for.
    const isLayer = digests.has(url.pathname.split("/").at(-1) ?? "");
    const given = request.headers.get("authorization");
    if (given !== null && !(isLayer && given === "Bearer token-1")) {
      request.headers.delete("authorization");
      return undefined;
    }
    const challenge = `Bearer realm="http://${proxy.host}/token"`;
    return new Response("", { status: 401, headers: { "WWW-Authenticate": challenge } });
  };
  expect((await store.images.pull(`${proxy.host}/private:many`, {})).id).toBe(many.id);
  expect(issued).toBe(2);
});

test("the token server gets the credentials; access_token counts too", async () => {
  await start();
  askForTokens((request) =>
    request.headers.get("authorization") === BASIC
      ? Response.json({ access_token: "good" })
      : new Response("", { status: 401 }),
  );
  await expect(store.images.pull(name(), {})).rejects.toMatchObject({ code: "Unauthenticated" });
  expect((await store.images.pull(name(), { auth: AUTH })).id).toBe(pushed.id);
});

test("an identity token is exchanged by POST", async () => {
  await start();
  let form = "";
  askForTokens(async (request) => {
    form = `${request.method} ${await request.text()}`;
    return Response.json({ access_token: "good" });
  });
  await store.images.pull(name(), { auth: { identityToken: "refresh-me" } });
  expect(form).toContain("POST ");
  expect(form).toContain("grant_type=refresh_token");
  expect(form).toContain("refresh_token=refresh-me");
});

test("a registry token is sent as it is", async () => {
  await start();
  askForTokens(() => new Response("", { status: 500 }));
  await store.images.pull(name(), { auth: { registryToken: "good" } });
  expect(proxy.requests.some((line) => line.includes("/token"))).toBe(false);
});

test.each([
  ["a token and null", { token: "good", access_token: null }],
  ["null and an access token", { token: null, access_token: "good", expires_in: null }],
  [
    "names in other letters and odd times",
    { Access_Token: "good", expires_in: "never", issued_at: 1 },
  ],
])("a token server may give %s", async (_, answer) => {
  await start();
  askForTokens(() => Response.json(answer));
  expect((await store.images.pull(name(), {})).id).toBe(pushed.id);
});

test.each([
  ["no token", () => Response.json({}), "holds no token"],
  ["no JSON", () => new Response("<html>"), "holds no token"],
  ["a token with a line break", () => Response.json({ token: "a\r\nX-Evil: 1" }), "holds no token"],
])("a token server that gives %s is Unauthenticated", async (_, answer, message) => {
  await start();
  askForTokens(answer);
  await expect(store.images.pull(name(), {})).rejects.toMatchObject({
    code: "Unauthenticated",
    message: expect.stringContaining(message),
  });
});

test("an endless token answer is cut off", async () => {
  await start();
  askForTokens(
    () => new Response(new ReadableStream({ pull: (out) => out.enqueue(new Uint8Array(65_536)) })),
  );
  await expect(store.images.pull(name(), {})).rejects.toMatchObject({
    message: expect.stringContaining("longer than"),
  });
});

test("a realm that is not http is refused", async () => {
  await start();
  const challenge = 'Bearer realm="file:///etc/passwd"';
  proxy.intercept = () =>
    new Response("", { status: 401, headers: { "WWW-Authenticate": challenge } });
  await expect(store.images.pull(name(), {})).rejects.toMatchObject({ code: "FailedPrecondition" });
});

test("403 is PermissionDenied", async () => {
  await start();
  proxy.intercept = (_, url) =>
    url.pathname === "/v2/" ? undefined : new Response("", { status: 403 });
  await expect(store.images.pull(name(), {})).rejects.toMatchObject({ code: "PermissionDenied" });
});

test("credentials do not follow a redirect to another host, and its answer is used", async () => {
  await start({ htpasswd: HTPASSWD, authorization: BASIC });
  const layer = pushed.layers[0]?.digest ?? "";
  const answer = await fetch(`http://${registry.host}/v2/private/blobs/${layer}`, {
    headers: { Authorization: BASIC },
  });
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const storage = startProxy();
  storage.intercept = () => new Response(bytes);
  try {
    proxy.intercept = (request, url) =>
      url.pathname.endsWith(layer) && request.headers.get("authorization") === BASIC
        ? Response.redirect(`http://${storage.host}/storage?signed=1`, 307)
        : undefined;
    expect((await store.images.pull(name(), { auth: AUTH })).id).toBe(pushed.id);
    expect(storage.requests).toEqual(["GET /storage"]);
    expect(authorizations(storage)).toEqual([]);
    expect(authorizations().length).toBeGreaterThan(0);
  } finally {
    await storage.stop();
  }
});

test("a host that the registry redirects to gets no credentials by asking for them", async () => {
  await start({ htpasswd: HTPASSWD, authorization: BASIC });
  const storage = startProxy();
  const challenges = [`Bearer realm="http://${storage.host}/token"`, 'Basic realm="x"'];
  storage.intercept = () =>
    new Response("", { status: 401, headers: { "WWW-Authenticate": challenges.join(", ") } });
  try {
    proxy.intercept = (request, url) =>
      url.pathname.includes("/blobs/") && request.headers.get("authorization") === BASIC
        ? Response.redirect(`http://${storage.host}/storage`, 307)
        : undefined;
    for (const auth of [AUTH, { ...AUTH, identityToken: "refresh-me" }]) {
      await expect(store.images.pull(name(), { auth })).rejects.toMatchObject({
        code: "Unauthenticated",
      });
    }
    // Asked for a token for nobody, it gives none.
    expect(new Set(storage.requests)).toEqual(new Set(["GET /storage", "GET /token"]));
    expect(authorizations(storage)).toEqual([]);
  } finally {
    await storage.stop();
  }
});

test("a registry that the first one redirects to gives an anonymous token of its own", async () => {
  await start({ htpasswd: HTPASSWD, authorization: BASIC });
  const open = await startRegistry();
  const second = startProxy(open.host);
  try {
    await pushImage(open, "copy:1", { layers: [[{ name: "a", data: "a" }]] });
    const searches: string[] = [];
    second.intercept = (request, url) => {
      if (url.pathname === "/token") {
        searches.push(url.search);
        return Response.json({ Token: null, access_token: "second", expires_in: "60" });
      }
      if (request.headers.get("authorization") === "Bearer second") return undefined;
      const challenge = `bearer REALM="http://${second.host}/token", service=two`;
      return new Response("", { status: 401, headers: { "WWW-Authenticate": challenge } });
    };
    proxy.intercept = (request, url) =>
      url.pathname.includes("/blobs/") && request.headers.get("authorization") === BASIC
        ? Response.redirect(
            `http://${second.host}${url.pathname.replace("/private/", "/copy/")}`,
            307,
          )
        : undefined;
    expect((await store.images.pull(name(), { auth: AUTH })).id).toBe(pushed.id);
    expect(new Set(authorizations(second))).toEqual(new Set(["Bearer second"]));
    expect(authorizations()).not.toContain("Bearer second");
    expect(new Set(searches)).toEqual(new Set(["?service=two&scope=repository%3Acopy%3Apull"]));
  } finally {
    await second.stop();
    await open.stop();
  }
});

test("registries that send their callers from one to the other, each wanting a token, end", async () => {
  await start();
  const second = startProxy();
  try {
    const tokens = (own: string, other: string) => (request: Request, url: URL) => {
      if (url.pathname === "/token") return Response.json({ token: own });
      if (!url.pathname.includes("/blobs/")) return undefined;
      if (request.headers.get("authorization") === `Bearer ${own}`) {
        return Response.redirect(`http://${other}${url.pathname}`, 307);
      }
      const challenge = `Bearer realm="http://${url.host}/token"`;
      return new Response("", { status: 401, headers: { "WWW-Authenticate": challenge } });
    };
    proxy.intercept = tokens("one", second.host);
    second.intercept = tokens("two", proxy.host);
    await expect(store.images.pull(name(), {})).rejects.toMatchObject({
      code: "FailedPrecondition",
      message: expect.stringContaining("more than 5 redirects"),
    });
    expect(authorizations(second)).not.toContain("Bearer one");
  } finally {
    await second.stop();
  }
});

test.each(["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "http://[", ""])(
  "a redirect to %j is refused",
  async (location) => {
    await start();
    proxy.intercept = (_, url) =>
      url.pathname.includes("/blobs/")
        ? new Response(null, {
            status: 307,
            headers: location === "" ? {} : { Location: location },
          })
        : undefined;
    const error = await store.images.pull(name(), {}).catch((thrown: Error) => thrown);
    expect(error).toMatchObject({ code: "FailedPrecondition" });
  },
);

test("a redirect loop ends", async () => {
  await start();
  proxy.intercept = (_, url) =>
    url.pathname.includes("/blobs/")
      ? Response.redirect(`http://${proxy.host}${url.pathname}`, 302)
      : undefined;
  await expect(store.images.pull(name(), {})).rejects.toMatchObject({
    message: expect.stringContaining("redirects"),
  });
});

test("a password does not go to a token server on another host by plain http", async () => {
  await start();
  const challenge = 'Bearer realm="http://token.invalid/token"';
  proxy.intercept = () =>
    new Response("", { status: 401, headers: { "WWW-Authenticate": challenge } });
  await expect(store.images.pull(name(), { auth: AUTH })).rejects.toMatchObject({
    code: "FailedPrecondition",
    message: expect.stringContaining("is no https address"),
  });
});

test("a registry that registries.conf puts in another's place gets no credentials of that one", async () => {
  await start({ htpasswd: HTPASSWD, authorization: BASIC });
  store.configure(`[[registry]]\nprefix = "a.example"\nlocation = "${proxy.host}"`);
  await expect(store.images.pull("a.example/private:1", { auth: AUTH })).rejects.toMatchObject({
    code: "Unauthenticated",
  });
  expect(authorizations()).toEqual([]);
});

test("of the registries that a short name may mean, only the one that they name gets credentials", async () => {
  await start({ htpasswd: HTPASSWD, authorization: BASIC });
  const search = (...hosts: string[]) =>
    store.configure(`unqualified-search-registries = ${JSON.stringify(hosts)}`);
  const other = startProxy();
  try {
    search(other.host, proxy.host);
    const pull = (auth: object) => store.images.pull("private:1", { auth });
    await expect(pull(AUTH)).rejects.toMatchObject({ code: "NotFound" });
    expect([...authorizations(), ...authorizations(other)]).toEqual([]);
    expect((await pull({ ...AUTH, serverAddress: proxy.host })).id).toBe(pushed.id);
    expect(authorizations(other)).toEqual([]);
    await store.images.remove(name());
    search(proxy.host);
    expect((await pull(AUTH)).id).toBe(pushed.id);
  } finally {
    await other.stop();
  }
});

test("mirrors get no credentials", async () => {
  await start();
  store.configure(
    `[[registry]]\nlocation = "a.example"\n[[registry.mirror]]\nlocation = "${proxy.host}"`,
  );
  await store.images.pull("a.example/private:1", { auth: AUTH });
  expect(authorizations()).toEqual([]);
});
