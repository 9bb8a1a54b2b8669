import { describe, expect, test } from "bun:test";
import { clone } from "@bufbuild/protobuf";
import {
  FieldDescriptorProto_Type,
  type FileDescriptorSet,
  FileDescriptorSetSchema,
} from "@bufbuild/protobuf/wkt";
import {
  differences,
  factsOf,
  kubernetesDescriptors,
  ownDescriptors,
} from "../conformance/contract.ts";

// Without Go the contract cannot be read from Kubernetes' module; CI has it.
const withGo = test.skipIf(Bun.which("go") === null);

withGo("proto/ states the contract of k8s.io/cri-api, field by field", () => {
  const theirs = factsOf(kubernetesDescriptors());
  const rpcs = [...theirs.keys()].filter((name) => name.startsWith("rpc "));
  expect(rpcs).toHaveLength(43);
  expect(differences(factsOf(ownDescriptors()), theirs)).toEqual([]);
});

describe("the comparison itself", () => {
  const own = ownDescriptors();

  function mutated(change: (set: FileDescriptorSet) => void): string[] {
    const copy = clone(FileDescriptorSetSchema, own);
    change(copy);
    return differences(factsOf(copy), factsOf(own));
  }
  function found<T>(value: T | undefined): T {
    if (value === undefined) throw new Error("the contract has changed: adapt this test");
    return value;
  }
  const message = (set: FileDescriptorSet, name: string) =>
    found(set.file.flatMap((file) => file.messageType).find((it) => it.name === name));
  const field = (set: FileDescriptorSet, of: string, name: string) =>
    found(message(set, of).field.find((it) => it.name === name));
  const service = (set: FileDescriptorSet) =>
    found(set.file.flatMap((file) => file.service).find((it) => it.name === "RuntimeService"));

  test("equal descriptors have no differences, whatever file they are in", () => {
    expect(mutated(() => {})).toEqual([]);
    expect(
      mutated((set) => {
        const [first, second] = set.file;
        found(second).messageType.push(...found(first).messageType.splice(0));
      }),
    ).toEqual([]);
  });

  test("a wrong number is shown with its field", () => {
    expect(
      mutated((set) => Object.assign(field(set, "Mount", "host_path"), { number: 22 })),
    ).toEqual([
      "message runtime.v1.Mount field host_path: proto/ says 22 string, optional, json hostPath;" +
        " Kubernetes says 2 string, optional, json hostPath",
    ]);
  });

  test.each<[string, (set: FileDescriptorSet) => void, string]>([
    [
      "type",
      (set) =>
        Object.assign(field(set, "Mount", "readonly"), { type: FieldDescriptorProto_Type.INT32 }),
      "field readonly: proto/ says 3 int32",
    ],
    [
      "missing field",
      (set) => message(set, "Mount").field.splice(0, 1),
      "field container_path: missing in proto/",
    ],
    [
      "field of our own",
      (set) => message(set, "Mount").field.push({ ...field(set, "Mount", "image"), name: "extra" }),
      "field extra: only in proto/",
    ],
    [
      "missing secrecy",
      (set) => delete field(set, "AuthConfig", "password").options,
      "field password: proto/ says 2 string, optional, json password; Kubernetes says 2 string, " +
        "optional, json password, redacted",
    ],
    [
      "missing deprecation",
      (set) => delete field(set, "LinuxContainerSecurityContext", "apparmor_profile").options,
      "field apparmor_profile: proto/ says",
    ],
    [
      "enum value",
      (set) => {
        const signal = set.file.flatMap((it) => it.enumType).find((it) => it.name === "Signal");
        Object.assign(found(found(signal).value[3]), { number: 99 });
      },
      "enum runtime.v1.Signal value SIGNAL_SIGBUS: proto/ says 99; Kubernetes says 3",
    ],
    [
      "missing RPC",
      (set) => service(set).method.splice(0, 1),
      "rpc RuntimeService.Version: missing in proto/",
    ],
    [
      "stream",
      (set) => Object.assign(found(service(set).method[0]), { serverStreaming: true }),
      "rpc RuntimeService.Version: proto/ says .runtime.v1.VersionRequest → stream",
    ],
  ])("a difference in %s is found", (_, change, line) => {
    const lines = mutated(change);
    expect(lines).toHaveLength(1);
    expect(lines[0]).toContain(line);
  });
});
