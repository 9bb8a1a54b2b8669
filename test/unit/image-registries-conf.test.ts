import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseRegistries, readRegistries, sourcesOf } from "../../src/config/registries-conf.ts";
import { parseReference } from "../../src/image/reference.ts";

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
const rules = parseRegistries(CONF, "registries.conf");
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
});

test.each([
  ["[registries.search]\nregistries = []", "version 1"],
  ["[[registry]]\nlocation = 5", "registry.0.location"],
  ["[[registry]]\nblocked = true", "neither prefix nor location"],
  ["[[registry", "registries.conf:"],
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
    const read = readRegistries({ file: join(directory, "main"), directory: dropIns });
    expect(() => sourcesOf(read, parseReference("busybox"))).toThrow("blocked");
    expect(read.filter(({ prefix }) => prefix === "docker.io")).toHaveLength(1);
    expect(sourcesOf(read, parseReference("example.com/team/a"))[0]?.host).toBe("other.com");
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("files that are not there are no rules", () => {
  expect(readRegistries({ file: "/nonexistent/a", directory: "/nonexistent/b" })).toEqual([]);
});
