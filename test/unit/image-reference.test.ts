import { expect, test } from "bun:test";
import { formatReference, parseReference } from "../../src/image/reference.ts";

const SHA = `sha256:${"a".repeat(64)}`;

test.each([
  ["busybox", "docker.io/library/busybox:latest"],
  ["busybox:1.36", "docker.io/library/busybox:1.36"],
  ["foo/bar", "docker.io/foo/bar:latest"],
  ["docker.io/busybox", "docker.io/library/busybox:latest"],
  ["index.docker.io/busybox", "docker.io/library/busybox:latest"],
  ["docker.io/foo/bar:x", "docker.io/foo/bar:x"],
  ["localhost/busybox", "localhost/busybox:latest"],
  ["localhost:5000/a/b:c", "localhost:5000/a/b:c"],
  ["registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"],
  ["[::1]:5000/x", "[::1]:5000/x:latest"],
  ["127.0.0.1:5000/x", "127.0.0.1:5000/x:latest"],
  ["UPPER/x", "UPPER/x:latest"],
  ["a.b/c__d/e-f--g/h.i:T_1.2-3", "a.b/c__d/e-f--g/h.i:T_1.2-3"],
  [`busybox@${SHA}`, `docker.io/library/busybox@${SHA}`],
  [`busybox:1@${SHA}`, `docker.io/library/busybox@${SHA}`],
  [`a.b:80/c@sha512:${"0".repeat(128)}`, `a.b:80/c@sha512:${"0".repeat(128)}`],
])("%s is %s", (text, expected) => {
  expect(formatReference(parseReference(text))).toBe(expected);
});

test("a reference with tag and digest keeps both", () => {
  expect(parseReference(`busybox:1@${SHA}`)).toEqual({
    registry: "docker.io",
    repository: "library/busybox",
    tag: "1",
    digest: SHA,
  });
});

test.each([
  "",
  ":tag",
  "/x",
  "x/",
  "x//y",
  "Busybox",
  "a b",
  "x:",
  "x:-a",
  `x:${"t".repeat(129)}`,
  "x@sha256:abc",
  "x@md5:d41d8cd98f00b204e9800998ecf8427e",
  `x@${SHA}@${SHA}`,
  "a".repeat(64),
  "https://a.b/c",
  "a..b/c",
  "a.b/c/../d",
  "a.b/c/./d",
  "-a.b/c",
  "a.b:port/c",
  "x/_y",
  "x/y_",
  "x/y___z",
  "é/x",
  `a.b/${"c".repeat(256)}`,
  "a.b/c?d=e",
  "user@a.b/c",
  "x\n",
])("%j is refused as InvalidArgument", (text) => {
  expect(() => parseReference(text)).toThrow(
    expect.objectContaining({ code: "InvalidArgument" }) as Error,
  );
});
