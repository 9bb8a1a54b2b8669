import { expect, test } from "bun:test";
import { parseChallenges } from "../../src/image/challenge.ts";
import { basicAuthorization, toCredentials } from "../../src/image/credentials.ts";

const read = (header: string) =>
  parseChallenges(header).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);

test("a Bearer challenge is read with its parameters", () => {
  const header =
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"';
  expect(read(header)).toEqual([
    [
      "bearer",
      {
        realm: "https://auth.docker.io/token",
        service: "registry.docker.io",
        scope: "repository:a/b:pull,push",
      },
    ],
  ]);
});

test.each([
  ['Basic realm="x"', [["basic", { realm: "x" }]]],
  ["BASIC REALM=x", [["basic", { realm: "x" }]]],
  ["Negotiate", [["negotiate", {}]]],
  [
    'Negotiate, Bearer realm="r" , service = "s", Basic realm="b"',
    [
      ["negotiate", {}],
      ["bearer", { realm: "r", service: "s" }],
      ["basic", { realm: "b" }],
    ],
  ],
  [
    'Bearer realm="a \\"quoted\\" \\\\ one",scope=""',
    [["bearer", { realm: 'a "quoted" \\ one', scope: "" }]],
  ],
  ['Bearer realm="a, Basic realm=b"', [["bearer", { realm: "a, Basic realm=b" }]]],
  ["", []],
  [",,,", []],
  ['"', []],
  ['Bearer realm="open', [["bearer", { realm: "" }]]],
])("%s", (header, expected) => {
  expect(read(header)).toEqual(expected as never);
});

test("credentials come from username and password, or from base64", () => {
  const plain = toCredentials({ username: "u", password: "p:q" }, "a.b");
  const coded = toCredentials({ auth: Buffer.from("u:p:q").toString("base64") }, "a.b");
  expect(plain).toEqual(coded as never);
  expect(plain && basicAuthorization(plain)).toBe("Basic dTpwOnE=");
});

test.each([
  ["a.b", "a.b", true],
  ["https://a.b/v1/", "a.b", true],
  ["https://index.docker.io/v1/", "docker.io", true],
  ["c.d", "a.b", false],
  ["a.b:5000", "a.b", false],
])("credentials for server %s and registry %s are used: %p", (serverAddress, registry, used) => {
  const auth = { username: "u", password: "p", serverAddress };
  expect(toCredentials(auth, registry) !== undefined).toBe(used);
});

test("an empty AuthConfig is none, and broken base64 is refused", () => {
  expect(toCredentials({ username: "", password: "", auth: "" }, "a.b")).toBeUndefined();
  expect(() => toCredentials({ auth: "bm8=" }, "a.b")).toThrow("auth.auth");
});
