import { expect, test } from "bun:test";
import { refuseLong } from "../../src/container/config-size.ts";
import { ContainerConfig } from "../../src/gen/runtime/v1/container_config_pb.ts";
import { fingerprint } from "../../src/state/fingerprint.ts";

test.each([
  ["envs", 65_536, { key: "A", value: Buffer.from("b") }],
  ["args", 65_536, "a"],
  ["command", 65_536, "a"],
  ["mounts", 4096, { containerPath: "/a", hostPath: "/b" }],
  ["devices", 4096, { hostPath: "/dev/null", permissions: "r" }],
])("of %s a container has at most %d", (field, most, entry) => {
  const config = (count: number) =>
    ContainerConfig.fromPartial({ [field]: new Array(count).fill(entry) });
  expect(() => refuseLong(config(most))).not.toThrow();
  const why = `config.${field}: ${most + 1} entries, at most ${most}`;
  expect(() => refuseLong(config(most + 1))).toThrow(why);
});

test("what tells equal requests is not much longer than they are, bytes included", () => {
  const value = Buffer.alloc(100_000, "v");
  const config = (labels: Record<string, string>, bytes = value) =>
    ContainerConfig.fromPartial({ labels, envs: [{ key: "K", value: bytes }] });
  const print = fingerprint(config({ a: "1", b: "2" }));
  expect(print.length).toBeLessThan(150_000);
  expect(fingerprint(config({ b: "2", a: "1" }))).toBe(print);
  expect(fingerprint(config({ a: "1", b: "2" }, Buffer.alloc(100_000, "w")))).not.toBe(print);
});
