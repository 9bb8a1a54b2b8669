import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { authFiles, findStoredAuth } from "../../src/config/auth-file.ts";
import { readCertificates } from "../../src/config/certs-d.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "crib-auth-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

function write(name: string, content: unknown): string {
  const path = join(directory, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
}
const find = (content: unknown, name: string, legacy = false) =>
  findStoredAuth([{ path: write("auth.json", content), legacy }], name);
const auths = (...keys: string[]) => ({
  auths: Object.fromEntries(keys.map((key) => [key, { auth: key }])),
});

test.each([
  [["r.io", "r.io/a", "r.io/a/b"], "r.io/a/b", "r.io/a/b"],
  [["r.io", "r.io/a", "r.io/a/b"], "r.io/a/c", "r.io/a"],
  [["r.io", "r.io/a"], "r.io/ab/c", "r.io"],
  [["r.io"], "r.io:5000/a", undefined],
  [["r.io/a"], "r.io/b", undefined],
  [["https://r.io/v1/"], "r.io/b", "https://r.io/v1/"],
  [["https://index.docker.io/v1/"], "docker.io/library/x", "https://index.docker.io/v1/"],
  [["index.docker.io"], "docker.io/library/x", "index.docker.io"],
  [["docker.io/library", "docker.io"], "docker.io/library/x", "docker.io/library"],
  [["evil-r.io"], "r.io/a", undefined],
])("of the keys %j, %j has %j", (keys, name, expected) => {
  const found = find(auths(...keys), name);
  expect(found?.kind === "entry" ? found.auth : undefined).toBe(expected);
});

test("a helper of the registry counts before its entry, one for all registries after it", () => {
  const file = { ...auths("a.io"), credHelpers: { "a.io": "one" }, credsStore: "all" };
  expect(find(file, "a.io/x")).toMatchObject({ helper: "one", serverUrl: "a.io" });
  expect(find({ ...file, credHelpers: {} }, "a.io/x")).toMatchObject({ auth: "a.io" });
  expect(find(file, "b.io/x")).toMatchObject({ helper: "all", serverUrl: "b.io" });
  expect(find({ auths: { "a.io": {} }, credsStore: "all" }, "a.io/x")).toMatchObject({
    helper: "all",
  });
  expect(find(file, "docker.io/library/x")).toMatchObject({
    serverUrl: "https://index.docker.io/v1/",
  });
});

test("names of fields may be in any case, and null is nothing, as for the tools that write such files", () => {
  const entry = { AUTH: "x", username: null, email: 3 };
  expect(find({ Auths: { "a.io": entry, "b.io": null }, credStore: 1 }, "a.io/x")).toMatchObject({
    auth: "x",
    username: "",
  });
  expect(find({ auths: null, CREDHELPERS: { "a.io": "one" } }, "a.io/x")).toMatchObject({
    helper: "one",
  });
  expect(find({ auths: null, credHelpers: null, credsStore: null }, "a.io/x")).toBeUndefined();
});

test("the old .dockercfg has registries at its top, and no namespaces", () => {
  const file = { "r.io": { auth: "x" }, "r.io/a": { auth: "y" } };
  expect(find(file, "r.io/a/b", true)).toMatchObject({ auth: "x" });
});

test("the files are searched in the order of containers-auth.json(5); an explicit one is alone", () => {
  const env = { HOME: "/h", XDG_RUNTIME_DIR: "/r", XDG_CONFIG_HOME: undefined };
  expect(authFiles("", env).map(({ path }) => path)).toEqual([
    "/r/containers/auth.json",
    "/h/.config/containers/auth.json",
    "/h/.docker/config.json",
    "/h/.dockercfg",
  ]);
  expect(authFiles("", { HOME: "/h" })[0]?.path).toMatch(/^\/run\/containers\/\d+\/auth\.json$/);
  expect(authFiles("/x", env)).toEqual([{ path: "/x", legacy: false }]);
});

test("the first file that knows the registry counts; absent and empty files are passed over", () => {
  const files = [
    join(directory, "absent"),
    write("empty", ""),
    write("other", auths("b.io")),
    write("first", { auths: { "a.io": { username: "u", password: "1" } } }),
    write("second", { auths: { "a.io": { username: "u", password: "2" } } }),
  ].map((path) => ({ path, legacy: false }));
  expect(findStoredAuth(files, "a.io/x")).toMatchObject({ password: "1" });
});

test.each(["not json with-a-secret", '{"auths": {"a.io": "with-a-secret"}}', "null"])(
  "the file %j is refused by name, and its content is not shown",
  (content) => {
    expect(() => find(content, "a.io/x")).toThrow(join(directory, "auth.json"));
    expect(() => find(content, "a.io/x")).not.toThrow("with-a-secret");
  },
);

test("an entry named as a property of all objects is none", () => {
  expect(find({ auths: {} }, "constructor/x")).toBeUndefined();
});

test("certificates come from the first directory that knows the host with its port", () => {
  const [one, two] = [join(directory, "one"), join(directory, "two")];
  write("one/h:5000/b.crt", "B");
  write("one/h:5000/a.crt", "A");
  write("one/h:5000/me.cert", "C");
  write("one/h:5000/me.key", "K");
  write("two/h:5000/c.crt", "not read");
  write("two/h/c.crt", "D");
  expect(readCertificates([one, two], "h:5000")).toEqual({
    ca: ["A", "B"],
    client: { certificate: "C", key: "K" },
  });
  expect(readCertificates([one, two], "h")).toEqual({ ca: ["D"], client: undefined });
  expect(readCertificates([one, two], "other")).toEqual({ ca: [] });
});

test.each([
  [["a.cert"], "there is no a.key"],
  [["a.key"], "there is no a.cert"],
  [["a.cert", "b.key"], "there is no a.key"],
  [["a.cert", "a.key", "b.cert", "b.key"], "one certificate only"],
])("a directory with %j is refused", (names, message) => {
  for (const name of names) write(`d/h/${name}`, "x");
  expect(() => readCertificates([join(directory, "d")], "h")).toThrow(message);
});
