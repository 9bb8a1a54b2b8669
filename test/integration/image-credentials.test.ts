import { afterEach, beforeEach, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { askHelper } from "../../src/image/credential-helper.ts";
import { openTestStore, type TestStore } from "../fixtures/image-store.ts";
import { type Pushed, pushImage, type Registry, startRegistry } from "../fixtures/registry.ts";
import { type RegistryProxy, startProxy } from "../fixtures/registry-proxy.ts";

/** "user:secret", made by `htpasswd -B`. */
const HTPASSWD = `user:${Bun.password.hashSync("secret", { algorithm: "bcrypt", cost: 4 })}`;
const BASIC = `Basic ${Buffer.from("user:secret").toString("base64")}`;
const auth = Buffer.from("user:secret").toString("base64");
const wrong = Buffer.from("user:wrong").toString("base64");

let registry: Registry;
let proxy: RegistryProxy;
let store: TestStore;
let pushed: Pushed;
const path = process.env.PATH;
beforeEach(async () => {
  store = await openTestStore();
  process.env.PATH = `${store.directory}/bin:${path}`;
  mkdirSync(join(store.directory, "bin"));
  registry = await startRegistry({ htpasswd: HTPASSWD, authorization: BASIC });
  pushed = await pushImage(registry, "team/app:1", { layers: [[{ name: "a", data: "a" }]] });
  proxy = startProxy(registry.host);
});
afterEach(async () => {
  process.env.PATH = path;
  await proxy.stop();
  await registry.stop();
  store.close();
});

const name = () => `${proxy.host}/team/app:1`;
const authFile = (content: unknown) =>
  writeFileSync(join(store.directory, "auth.json"), JSON.stringify(content));

/** A credential helper of this name. */
function helper(program: string, body: string): void {
  const file = join(store.directory, "bin", `docker-credential-${program}`);
  writeFileSync(file, `#!/bin/sh\n${body}\n`);
  chmodSync(file, 0o755);
}

test("the auth file is used where the request has no credentials, the longest key first", async () => {
  authFile({ auths: { [proxy.host]: { auth: wrong }, [`${proxy.host}/team`]: { auth } } });
  expect((await store.images.pull(name())).id).toBe(pushed.id);
});

test("credentials of the request count before the file's; those for another server do not", async () => {
  authFile({ auths: { [proxy.host]: { auth: wrong } } });
  const given = { username: "user", password: "secret" };
  await expect(store.images.pull(name())).rejects.toMatchObject({ code: "Unauthenticated" });
  expect((await store.images.pull(name(), { auth: given })).id).toBe(pushed.id);
  authFile({ auths: { [proxy.host]: { auth } } });
  await store.images.remove(name());
  const elsewhere = { username: "a", password: "b", serverAddress: "other.example" };
  expect((await store.images.pull(name(), { auth: elsewhere })).id).toBe(pushed.id);
});

test("a mirror gets what the file has for the mirror", async () => {
  store.configure(
    `[[registry]]\nlocation = "a.example"\n[[registry.mirror]]\nlocation = "${proxy.host}"`,
  );
  authFile({ auths: { "a.example": { auth: wrong }, [proxy.host]: { auth } } });
  expect((await store.images.pull("a.example/team/app:1")).id).toBe(pushed.id);
});

test("a helper is asked for the registry, once for a pull, and only when the registry wants it", async () => {
  helper("test", `cat >> ${store.directory}/asked; echo '{"Username":"user","Secret":"secret"}'`);
  authFile({ credHelpers: { [proxy.host]: "test" } });
  expect((await store.images.pull(name())).id).toBe(pushed.id);
  expect(readFileSync(join(store.directory, "asked"), "utf8")).toBe(proxy.host);
  const open = await startRegistry();
  try {
    await pushImage(open, "open:1", { layers: [] });
    authFile({ credHelpers: { [open.host]: "absent" } });
    expect((await store.images.pull(`${open.host}/open:1`)).repoTags).toHaveLength(1);
  } finally {
    await open.stop();
  }
});

test("credential-helpers of registries.conf are asked in their order", async () => {
  helper("none", "echo credentials not found in native keychain; exit 1");
  helper("some", `echo '{"Username":"user","Secret":"secret"}'`);
  store.configure('credential-helpers = ["none", "missing", "containers-auth.json", "some"]');
  expect((await store.images.pull(name())).id).toBe(pushed.id);
});

test.each([
  ["exit 3", "exit code 3"],
  ["echo 'no json my-secret'", "not understood"],
  ["yes my-secret | head -c 10000000", "not understood"],
])("a helper that does %j fails the pull, and what it said is not shown", async (body, message) => {
  helper("bad", body);
  authFile({ credHelpers: { [proxy.host]: "bad" } });
  const error = await store.images.pull(name()).catch((thrown: Error) => thrown);
  expect(String(error)).toContain(message);
  expect(String(error)).not.toContain("my-secret");
  expect(store.images.list()).toEqual([]);
});

test("a helper that hangs is killed with its children; one with a path in its name never runs", async () => {
  helper("hangs", `sleep 1000 & echo $! > ${store.directory}/pid; wait`);
  await expect(askHelper("hangs", "r.io", 300)).rejects.toMatchObject({
    code: "Unavailable",
    message: expect.stringContaining("no answer"),
  });
  const pid = readFileSync(join(store.directory, "pid"), "utf8").trim();
  await Bun.sleep(50);
  const state = existsSync(`/proc/${pid}/stat`) ? readFileSync(`/proc/${pid}/stat`, "utf8") : "Z";
  expect(state).toMatch(/(^Z$|\) Z )/);
  await expect(askHelper("../evil", "r.io")).rejects.toMatchObject({ code: "FailedPrecondition" });
  await expect(askHelper("nowhere", "r.io")).rejects.toThrow("not found in PATH");
});

test("a user <token> is an identity token", async () => {
  helper("token", `echo '{"Username":"<token>","Secret":"abc"}'`);
  expect(await askHelper("token", "r.io")).toMatchObject({ username: "", identityToken: "abc" });
});

test("a short name is pulled from the first registry that has it, and found by it", async () => {
  authFile({ auths: { [proxy.host]: { auth } } });
  const empty = startProxy();
  try {
    store.configure(`unqualified-search-registries = ["${empty.host}", "${proxy.host}"]`);
    const image = await store.images.pull("team/app:1");
    expect(image.repoTags).toEqual([name()]);
    expect(empty.requests).toContain("GET /v2/team/app/manifests/1");
    expect(store.images.find("team/app:1")?.id).toBe(pushed.id);
    expect(store.images.find("team/app:2")).toBeUndefined();
    await expect(store.images.pull("team/none:1")).rejects.toMatchObject({ code: "NotFound" });
    await store.images.remove("team/app:1");
    expect(store.images.list()).toEqual([]);
  } finally {
    await empty.stop();
  }
});
