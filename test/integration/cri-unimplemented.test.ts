import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, type DescMethodServerStreaming, type DescMethodUnary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ImageService } from "../../src/gen/runtime/v1/image_service_pb.ts";
import { RuntimeService } from "../../src/gen/runtime/v1/runtime_service_pb.ts";
import { type RunningCrib, startCrib } from "../fixtures/crib.ts";

/** What Crib has. Everything else of the contract must say so itself. */
const HAS = new Set(
  `Version Status RuntimeConfig RunPodSandbox StopPodSandbox RemovePodSandbox PodSandboxStatus
   ListPodSandbox CreateContainer StartContainer StopContainer RemoveContainer ContainerStatus
   ListContainers ExecSync Exec Attach PortForward ReopenContainerLog ContainerStats ListContainerStats
   PullImage ListImages ImageStatus RemoveImage ImageFsInfo`.split(/\s+/),
);

const methods = [RuntimeService, ImageService].flatMap((service) => service.methods);
const directory = mkdtempSync(join(tmpdir(), "crib-unimplemented-"));
let crib: RunningCrib;

beforeAll(async () => {
  crib = await startCrib({ directory });
});

afterAll(async () => {
  await crib.stop();
});

/** How a call with an empty request ends. */
async function outcome(method: DescMethodUnary | DescMethodServerStreaming): Promise<string> {
  const transport = createGrpcTransport({
    baseUrl: "http://localhost",
    nodeOptions: { createConnection: () => connect(crib.socket) },
  });
  const request = create(method.input);
  try {
    if (method.methodKind === "unary") {
      await transport.unary(method, undefined, 10_000, undefined, request);
    } else {
      const requests = (async function* () {
        yield request;
      })();
      const answer = await transport.stream(method, undefined, 10_000, undefined, requests);
      for await (const _ of answer.message) return "OK";
    }
    return "OK";
  } catch (error) {
    return error instanceof ConnectError ? (Code[error.code] ?? "?") : String(error);
  }
}

function isKnownKind(method: (typeof methods)[number]) {
  return method.methodKind === "unary" || method.methodKind === "server_streaming";
}

test("the contract's methods are all unary or server streaming", () => {
  expect(methods.filter((method) => !isKnownKind(method))).toEqual([]);
  expect(methods.filter(({ name }) => HAS.has(name)).length).toBe(HAS.size);
});

for (const method of methods) {
  if (HAS.has(method.name)) {
    test(`${method.name} is there`, async () => {
      expect(await outcome(method as DescMethodUnary)).not.toBe("Unimplemented");
    });
  } else {
    test(`${method.name} is Unimplemented at once`, async () => {
      expect(await outcome(method as DescMethodUnary)).toBe("Unimplemented");
    });
  }
}
