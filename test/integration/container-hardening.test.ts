/** What of a request reaches the OCI runtime, and which files it can make the daemon open. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { SecurityProfile_ProfileType as ProfileType } from "../../src/gen/runtime/v1/security_pb.ts";
import { type MadePod, refusal, startNode, type TestNode } from "../fixtures/pods.ts";

let node: TestNode;
let pod: MadePod;

const HANDLER = "plain";
const ANNOTATIONS = { "run.oci.note": "x", "example.org/note": "y" };

beforeAll(async () => {
  node = await startNode({
    set: {
      "runtime.unset_seccomp_profile": "RuntimeDefault",
      "runtime.allowed_annotations": '["example.org/*"]',
      "runtime.handlers.gate.allowed_annotations": '["run.oci.note"]',
      [`runtime.handlers.${HANDLER}.path`]: Bun.which("runc", { PATH: "/usr/sbin:/usr/bin" }) ?? "",
    },
  });
  pod = await node.pod({ annotations: { "example.org/pod": "z" } });
});

afterAll(async () => {
  try {
    expect(await node.cleaned()).toEqual([]);
  } finally {
    await node.stop();
  }
});

const Spec = v.object({ annotations: v.record(v.string(), v.string()) });

/** The names in config.json that the client made. */
function passed({ id }: { id: string }): string[] {
  const path = join(node.directory, "state/containers", id, "config.json");
  const { annotations } = v.parse(Spec, JSON.parse(readFileSync(path, "utf8")));
  return Object.keys(annotations).filter((name) => !name.startsWith("io.kubernetes."));
}

test("an OCI runtime is given the annotations of its handler's list; the client all", async () => {
  const container = await node.create(pod, { annotations: ANNOTATIONS });
  expect(passed(container)).toEqual(["run.oci.note"]);
  expect((await node.status(container)).annotations).toEqual(ANNOTATIONS);
});

test("a handler without a list has the node's, for pods and containers", async () => {
  const { linux, annotations } = pod.config;
  const config = node.podConfig({ linux, annotations });
  const made = await node.runtime.runPodSandbox({ config, runtimeHandler: HANDLER });
  const other = { id: made.podSandboxId, config };
  const container = await node.create(other, { annotations: ANNOTATIONS });
  expect(passed(container).sort()).toEqual(["example.org/note", "example.org/pod"]);
});

test("a container that names no seccomp profile has the node's for that", async () => {
  const container = await node.run(pod);
  expect(await node.sh(container, "grep ^Seccomp: /proc/self/status")).toBe("Seccomp:\t2\n");
});

test("profiles that are no files, or large ones, are refused at once, however many ask", async () => {
  const fifo = join(node.directory, "fifo");
  execFileSync("mkfifo", [fifo]);
  const huge = join(node.directory, "huge");
  writeFileSync(huge, "");
  truncateSync(huge, 2 ** 30);
  // More than the engine has threads for files: one that waited would hold up all.
  const paths = [...Array.from({ length: 12 }, () => fifo), "/dev/zero", huge];
  const codes = await Promise.all(
    paths.map(async (localhostRef) => {
      const seccomp = { profileType: ProfileType.Localhost, localhostRef };
      const linux = { securityContext: { namespaceOptions: { pid: 1 }, seccomp } };
      return (await refusal(node.create(pod, { linux }))).code;
    }),
  );
  expect(new Set(codes)).toEqual(new Set(["InvalidArgument"]));
});
