import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client, credentials, status } from "@grpc/grpc-js";
import { ImageServiceDefinition } from "../../src/gen/runtime/v1/image_service_pb.ts";
import { RuntimeServiceDefinition } from "../../src/gen/runtime/v1/runtime_service_pb.ts";
import { type RunningCrib, startCrib } from "../fixtures/crib.ts";

/** What Crib has. Everything else of the contract must say so itself. */
const HAS = new Set(
  `Version Status RuntimeConfig RunPodSandbox StopPodSandbox RemovePodSandbox PodSandboxStatus
   ListPodSandbox CreateContainer StartContainer StopContainer RemoveContainer ContainerStatus
   ListContainers ExecSync Exec Attach PortForward ReopenContainerLog ContainerStats ListContainerStats
   PullImage ListImages ImageStatus RemoveImage ImageFsInfo`.split(/\s+/),
);

const methods = [RuntimeServiceDefinition, ImageServiceDefinition].flatMap(
  ({ fullName, methods }) =>
    Object.values(methods).map((method) => ({ ...method, path: `/${fullName}/${method.name}` })),
);
const directory = mkdtempSync(join(tmpdir(), "crib-unimplemented-"));
let crib: RunningCrib;

beforeAll(async () => {
  crib = await startCrib({ directory });
});

afterAll(async () => {
  await crib.stop();
});

/** How a call with an empty request ends. */
function outcome(path: string): Promise<string> {
  const client = new Client(`unix:${crib.socket}`, credentials.createInsecure());
  const bytes = (message: Buffer) => message;
  return new Promise((resolve) => {
    client.makeUnaryRequest(path, bytes, bytes, Buffer.alloc(0), (error) => {
      client.close();
      resolve(status[error?.code ?? status.OK] ?? "?");
    });
  });
}

test("the contract's methods are all unary or server streaming", () => {
  expect(methods.filter(({ requestStream }) => requestStream)).toEqual([]);
  expect(methods.filter(({ name }) => HAS.has(name)).length).toBe(HAS.size);
});

for (const method of methods) {
  if (HAS.has(method.name)) {
    test(`${method.name} is there`, async () => {
      expect(await outcome(method.path)).not.toBe("UNIMPLEMENTED");
    });
  } else {
    test(`${method.name} is Unimplemented at once`, async () => {
      expect(await outcome(method.path)).toBe("UNIMPLEMENTED");
    });
  }
}
