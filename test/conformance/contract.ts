/** The CRI contract as comparable facts: ours from proto/, and Kubernetes' from its Go module. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import {
  type DescriptorProto,
  type EnumDescriptorProto,
  type FieldDescriptorProto,
  FieldDescriptorProto_Label,
  FieldDescriptorProto_Type,
  type FileDescriptorSet,
  FileDescriptorSetSchema,
  type ServiceDescriptorProto,
} from "@bufbuild/protobuf/wkt";
import { cache, hashOf, repository, requireGo, retry } from "./programs.ts";

/**
 * One line for each thing that the wire or a client can see: "message runtime.v1.Mount field
 * host_path" → "2 string, optional". How it is split into files does not count.
 */
export type Facts = Map<string, string>;

/** proto/runtime/v1 as buf compiles it. */
export function ownDescriptors(): FileDescriptorSet {
  const buf = join(repository, "node_modules/.bin/buf");
  return run([buf, "build", "--path", "proto/runtime", "-o", "-"], repository);
}

/**
 * The descriptors in k8s.io/cri-api at the version that test/conformance/descriptors pins, kept in
 * the cache. Throws GoMissing without Go.
 */
export function kubernetesDescriptors(): FileDescriptorSet {
  const module = join(import.meta.dir, "descriptors");
  const hash = hashOf(["go.mod", "go.sum", "main.go"].map((it) => join(module, it)));
  const cached = join(cache, `cri-api-${hash}.binpb`);
  if (!existsSync(cached)) {
    requireGo();
    const set = retry(() => runRaw(["go", "run", "."], module));
    mkdirSync(cache, { recursive: true });
    writeFileSync(`${cached}.${process.pid}`, set);
    renameSync(`${cached}.${process.pid}`, cached);
  }
  return fromBinary(FileDescriptorSetSchema, readFileSync(cached));
}

function run(command: string[], cwd: string): FileDescriptorSet {
  return fromBinary(FileDescriptorSetSchema, runRaw(command, cwd));
}

function runRaw(command: string[], cwd: string): Uint8Array {
  const child = Bun.spawnSync(command, { cwd, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  if (child.exitCode !== 0) throw new Error(`${command.join(" ")} failed:\n${child.stderr}`);
  return child.stdout;
}

/** All facts of the package runtime.v1; throws when `set` names one thing twice. */
export function factsOf(set: FileDescriptorSet): Facts {
  const facts: Facts = new Map();
  const add = (name: string, value: string) => {
    if (facts.has(name)) throw new Error(`${name} is there twice`);
    facts.set(name, value);
  };
  for (const file of set.file.filter((it) => it.package === "runtime.v1")) {
    for (const message of file.messageType) addMessage(add, "runtime.v1", message);
    for (const enumeration of file.enumType) addEnum(add, "runtime.v1", enumeration);
    for (const service of file.service) addService(add, service);
  }
  return facts;
}

type Add = (name: string, value: string) => void;

function addMessage(add: Add, scope: string, message: DescriptorProto): void {
  const name = `${scope}.${message.name}`;
  add(
    `message ${name}`,
    flags({ "map entry": message.options?.mapEntry, deprecated: message.options?.deprecated }),
  );
  for (const field of message.field) {
    add(`message ${name} field ${field.name}`, fieldFacts(message, field));
  }
  for (const range of message.reservedRange)
    add(`message ${name} reserved ${range.start}`, `to ${range.end}`);
  for (const reserved of message.reservedName) add(`message ${name} reserved "${reserved}"`, "");
  for (const nested of message.nestedType) addMessage(add, name, nested);
  for (const enumeration of message.enumType) addEnum(add, name, enumeration);
}

function fieldFacts(message: DescriptorProto, field: FieldDescriptorProto): string {
  const oneof = field.oneofIndex !== undefined && message.oneofDecl[field.oneofIndex]?.name;
  const parts = [
    `${field.number} ${field.typeName.replace(/^\./, "") || FieldDescriptorProto_Type[field.type].toLowerCase()}`,
    FieldDescriptorProto_Label[field.label].toLowerCase(),
    `json ${field.jsonName}`,
    oneof && `oneof ${oneof}`,
    flags({
      "explicit presence": field.proto3Optional,
      deprecated: field.options?.deprecated,
      redacted: field.options?.debugRedact,
      packed: field.options?.packed,
    }),
  ];
  return parts.filter(Boolean).join(", ");
}

function addEnum(add: Add, scope: string, enumeration: EnumDescriptorProto): void {
  const name = `${scope}.${enumeration.name}`;
  add(
    `enum ${name}`,
    flags({ alias: enumeration.options?.allowAlias, deprecated: enumeration.options?.deprecated }),
  );
  for (const value of enumeration.value) {
    const note = flags({ deprecated: value.options?.deprecated });
    add(
      `enum ${name} value ${value.name}`,
      [value.number, note].filter((it) => it !== "").join(", "),
    );
  }
}

function addService(add: Add, service: ServiceDescriptorProto): void {
  add(`service runtime.v1.${service.name}`, flags({ deprecated: service.options?.deprecated }));
  for (const method of service.method) {
    const stream = (it: boolean) => (it ? "stream " : "");
    add(
      `rpc ${service.name}.${method.name}`,
      `${stream(method.clientStreaming)}${method.inputType} → ${stream(method.serverStreaming)}${method.outputType}` +
        (method.options?.deprecated ? ", deprecated" : ""),
    );
  }
}

function flags(all: Record<string, boolean | undefined>): string {
  return Object.keys(all)
    .filter((name) => all[name])
    .join(", ");
}

/** Each fact that only one side has or that differs, as one line; empty when the contracts agree. */
export function differences(ours: Facts, theirs: Facts): string[] {
  const lines: string[] = [];
  for (const [name, value] of theirs) {
    const own = ours.get(name);
    if (own === undefined) lines.push(`${name}: missing in proto/ (Kubernetes: ${value})`);
    else if (own !== value) lines.push(`${name}: proto/ says ${own}; Kubernetes says ${value}`);
  }
  for (const [name, value] of ours) {
    if (!theirs.has(name)) lines.push(`${name}: only in proto/ (${value})`);
  }
  return lines;
}
