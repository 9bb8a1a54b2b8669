import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { refusal, startNode, type TestNode } from "../fixtures/pods.ts";

let directory: string;
let node: TestNode;
const ACCEPT = [{ type: "insecureAcceptAnything" }];
const REJECT = [{ type: "reject" }];
const policy = (name: string, requirements: object[]) =>
  writeFileSync(join(directory, name), JSON.stringify({ default: requirements }));

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "crib-policy-"));
  mkdirSync(join(directory, "policies"));
  policy("policy.json", ACCEPT);
  policy("policies/closed.json", REJECT);
  const set = {
    "image.policy": join(directory, "policy.json"),
    "image.policy_dir": join(directory, "policies"),
  };
  node = await startNode({ set });
}, 60_000);
afterAll(async () => {
  await node.stop();
  rmSync(directory, { recursive: true });
});

const podIn = (namespace: string) =>
  node.pod({ metadata: { name: "p", namespace, uid: `uid-${namespace}`, attempt: 0 } });

test("the namespace of the pod that a pull is for decides by which policy", async () => {
  const pull = (namespace: string) =>
    node.imageService.pullImage({
      image: { image: node.image },
      sandboxConfig: { metadata: { name: "p", namespace, uid: "u", attempt: 0 } },
    });
  expect((await pull("open")).imageRef).toBe(node.pushed?.id ?? "");
  const { code, message } = await refusal(pull("closed"));
  expect(code).toBe("PermissionDenied");
  expect(message).toStartWith("SignatureValidationFailed");
});

test("an image that is there is judged again when a container is made of it", async () => {
  const [open, closed] = [await podIn("open"), await podIn("closed")];
  await node.create(open);
  for (const image of [node.image, node.pushed?.id ?? ""]) {
    const { code, message } = await refusal(node.create(closed, { image: { image } }));
    expect(code).toBe("PermissionDenied");
    expect(message).toStartWith("SignatureValidationFailed");
  }
  // Read anew each time: what was allowed at the pull is so no more.
  policy("policy.json", REJECT);
  expect(await refusal(node.create(open))).toMatchObject({ code: "PermissionDenied" });
  policy("policy.json", ACCEPT);
  await node.create(open);
  expect(await node.cleaned()).toEqual([]);
});
