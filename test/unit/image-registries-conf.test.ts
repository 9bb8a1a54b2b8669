import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseRegistries, readRegistries, sourcesOf } from "../../src/config/registries-conf.ts";
import { formatReference, parseReference, referencesOf } from "../../src/image/reference.ts";

const SHA = `sha256:${"a".repeat(64)}`;
const CONF = `
unqualified-search-registries = ["docker.io"]
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "mirror.local:5000/hub"
insecure = true
[[registry.mirror]]
location = "digest.local"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "tag.local"
pull-from-mirror = "tag-only"
[[registry]]
prefix = "example.com/team"
location = "other.com/moved/"
[[registry]]
prefix = "example.com/team/special"
location = "special.com"
insecure = true
[[registry]]
prefix = "*.wild.com"
[[registry.mirror]]
location = "wildmirror.com"
[[registry]]
prefix = "*.moved.wild.com"
location = "target.com"
[[registry]]
location = "bad.com"
blocked = true
[[registry]]
prefix = "bydigest.com"
mirror-by-digest-only = true
[[registry.mirror]]
location = "m.com"
[[registry]]
prefix = "one.com/repo:tag"
location = "one.com/repo"
insecure = true
`;
const { rules } = parseRegistries(CONF, "registries.conf");
const sources = (text: string) =>
  sourcesOf(rules, parseReference(text)).map(
    ({ host, repository, insecure }) => `${insecure ? "insecure " : ""}${host}/${repository}`,
  );

test.each([
  [
    "busybox",
    [
      "insecure mirror.local:5000/hub/library/busybox",
      "tag.local/library/busybox",
      "docker.io/library/busybox",
    ],
  ],
  [`a/b@${SHA}`, ["insecure mirror.local:5000/hub/a/b", "digest.local/a/b", "docker.io/a/b"]],
  ["example.com/team/app:1", ["other.com/moved/app"]],
  ["example.com/teammate/app:1", ["example.com/teammate/app"]],
  ["example.com/team/special/x", ["insecure special.com/x"]],
  ["example.com/other", ["example.com/other"]],
  ["a.wild.com/x", ["wildmirror.com/x", "a.wild.com/x"]],
  ["a.b.wild.com/x/y", ["wildmirror.com/x/y", "a.b.wild.com/x/y"]],
  ["wild.com/x", ["wild.com/x"]],
  ["a.moved.wild.com/x", ["target.com/x"]],
  ["a.wild.com:5000/x", ["wildmirror.com:5000/x", "a.wild.com:5000/x"]],
  ["a.moved.wild.com:5000/x:5000", ["target.com:5000/x"]],
  ["wild.com:5000/x", ["wild.com:5000/x"]],
  ["bydigest.com/x", ["bydigest.com/x"]],
  [`bydigest.com/x@${SHA}`, ["m.com/x", "bydigest.com/x"]],
  ["one.com/repo:tag", ["insecure one.com/repo"]],
  ["one.com/repo:tagged", ["one.com/repo"]],
  ["bad.com.evil.org/x", ["bad.com.evil.org/x"]],
])("%s is fetched from %j", (text, expected) => {
  expect(sources(text)).toEqual(expected);
});

test("a blocked registry is refused by name", () => {
  expect(() => sources("bad.com/x")).toThrow("bad.com is blocked in registries.conf");
  const wild = parseRegistries('[[registry]]\nprefix = "*.bad.com"\nblocked = true', "f").rules;
  for (const host of ["a.bad.com", "a.bad.com:5000", "a.b.bad.com:443"]) {
    expect(() => sourcesOf(wild, parseReference(`${host}/x`))).toThrow("blocked");
  }
});

test.each([
  ["[registries.search]\nregistries = []", "version 1"],
  ["[[registry]]\nlocation = 5", "registry.0.location"],
  ["[[registry]]\nblocked = true", "neither prefix nor location"],
  ["[[registry", "registries.conf:"],
  ['[[registry]]\nprefix="*.a.io/x"', "can only begin a host"],
  ['[[registry]]\nprefix="a.*.io"', "can only begin a host"],
  [
    '[[registry]]\nprefix="a"\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation="b"\npull-from-mirror="all"',
    "exclude each other",
  ],
  ['short-name-mode = "loud"', "short-name-mode"],
  ['[aliases]\n"a.io/b" = "c.io/d"', "no short name"],
  ['[aliases]\n"a" = "b"', "no full name"],
  ['[aliases]\n"a" = "b.io/c:tag"', "no full name"],
  ['[[registry]]\nlocation="a"\n[[registry.mirror]]\ninsecure=true', "mirror.0.location"],
])("%j is refused, naming the place", (text, message) => {
  expect(() => parseRegistries(text, "registries.conf")).toThrow(message);
});

test("drop-ins replace tables of one prefix, in the order of their names", () => {
  const directory = mkdtempSync(join(tmpdir(), "crib-registries-"));
  try {
    const dropIns = join(directory, "d");
    mkdirSync(dropIns);
    writeFileSync(join(directory, "main"), CONF);
    writeFileSync(join(dropIns, "20.conf"), '[[registry]]\nlocation = "docker.io"\nblocked = true');
    writeFileSync(join(dropIns, "10.conf"), '[[registry]]\nprefix = "docker.io"\nlocation = "x.y"');
    writeFileSync(join(dropIns, "ignored.txt"), "not toml at all [");
    const read = readRegistries({ file: join(directory, "main"), directory: dropIns }).rules;
    expect(() => sourcesOf(read, parseReference("busybox"))).toThrow("blocked");
    expect(read.filter(({ prefix }) => prefix === "docker.io")).toHaveLength(1);
    expect(sourcesOf(read, parseReference("example.com/team/a"))[0]?.host).toBe("other.com");
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("files that are not there are no rules", () => {
  const read = readRegistries({
    file: "/nonexistent/a",
    directory: "/nonexistent/b",
    shortNameCache: "/nonexistent/c",
  });
  expect(read).toMatchObject({ rules: [], search: [], shortNameMode: "permissive" });
  expect(read.credentialHelpers).toEqual(["containers-auth.json"]);
});

const registriesOf = (text: string) => {
  const directory = mkdtempSync(join(tmpdir(), "crib-registries-"));
  const write = (name: string, content: string) => writeFileSync(join(directory, name), content);
  try {
    mkdirSync(join(directory, "d"));
    const [main = "", dropIn, cache] = text.split("---\n");
    write("main", main);
    if (dropIn !== undefined) write("d/1.conf", dropIn);
    if (cache !== undefined) write("cache", cache);
    return readRegistries({
      file: join(directory, "main"),
      directory: join(directory, "d"),
      shortNameCache: join(directory, "cache"),
    });
  } finally {
    rmSync(directory, { recursive: true });
  }
};
const ALIASES = '[aliases]\n"app" = "quay.io/team/app"\n"ns/app" = "r.io/x"\n';

test.each([
  ["", "busybox:1", ["docker.io/library/busybox:1"]],
  ["", "a/b", ["docker.io/a/b:latest"]],
  [ALIASES, "app", ["quay.io/team/app:latest"]],
  [ALIASES, "app:2", ["quay.io/team/app:2"]],
  [ALIASES, `app@${SHA}`, [`quay.io/team/app@${SHA}`]],
  [ALIASES, "ns/app:3", ["r.io/x:3"]],
  [ALIASES, "other", ["docker.io/library/other:latest"]],
  [ALIASES, "docker.io/app", ["docker.io/library/app:latest"]],
  [`${ALIASES}---\n[aliases]\n"app" = ""`, "app", ["docker.io/library/app:latest"]],
  [`${ALIASES}---\n[aliases]\n"app" = "b.io/c"`, "app", ["b.io/c:latest"]],
  [`${ALIASES}---\n---\n[aliases]\n"app" = "chosen.io/c"`, "app", ["chosen.io/c:latest"]],
  ['unqualified-search-registries = ["a.io"]', "x", ["a.io/x:latest"]],
  [
    'unqualified-search-registries = ["a.io", "docker.io"]',
    "x",
    ["a.io/x:latest", "docker.io/library/x:latest"],
  ],
  ['unqualified-search-registries = ["a.io"]', "localhost/x", ["localhost/x:latest"]],
  [
    'unqualified-search-registries = ["a.io"]---\nunqualified-search-registries = ["b.io"]',
    "x",
    ["b.io/x:latest"],
  ],
  [
    'short-name-mode = "enforcing"\nunqualified-search-registries = ["a.io"]',
    "x",
    ["a.io/x:latest"],
  ],
  [
    'short-name-mode = "disabled"\nunqualified-search-registries = ["a.io", "b.io"]',
    "x",
    ["a.io/x:latest", "b.io/x:latest"],
  ],
])("with %j the name %j means %j", (conf, text, expected) => {
  expect(referencesOf(text, registriesOf(conf)).map(formatReference)).toEqual(expected);
});

test("in mode enforcing a short name that may mean several is refused, for nobody can be asked", () => {
  const conf = 'short-name-mode = "enforcing"\nunqualified-search-registries = ["a.io", "b.io"]';
  expect(() => referencesOf("x", registriesOf(conf))).toThrow("a.io, b.io");
  expect(referencesOf("c.io/x", registriesOf(conf))).toHaveLength(1);
});
