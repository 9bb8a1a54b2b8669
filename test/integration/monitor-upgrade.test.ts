/**
 * A daemon that replaces an older one meets the older one's monitors: here the helper of protocol
 * version 1, built from the repository's history. Needs root.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PodSandboxState } from "../../src/gen/runtime/v1/pod_sandbox_pb.ts";
import { refusal, startNode, type TestNode } from "../fixtures/pods.ts";
import { until } from "../fixtures/until.ts";
import { compileMonitor } from "./monitor-harness.ts";

/** The last one before streams: no terminals, attach, dials; it says nothing of a dead pause. */
const VERSION_1 = "29ca04f3a1c7e2fab9f47fcdab1a48ce093d297f";
const ROOT = join(import.meta.dir, "../..");

/** A source of that commit; undefined in a clone that has not all of the history. */
function git(...argv: string[]): string | undefined {
  const { status, stdout } = spawnSync("git", ["-c", "safe.directory=*", ...argv], {
    cwd: ROOT,
    encoding: "utf8",
    maxBuffer: 1 << 24,
  });
  return status === 0 ? stdout : undefined;
}

const names = git("ls-tree", "-r", "--name-only", VERSION_1, "src/native/")?.trim().split("\n");
const withHistory = test.skipIf(names === undefined);
let sources: string;
let node: TestNode;

beforeAll(async () => {
  sources = mkdtempSync(join(tmpdir(), "crib-version-1-"));
  node = await startNode();
});
afterAll(async () => {
  await node.stop();
  rmSync(sources, { recursive: true, force: true });
});

function buildVersion1(): string {
  const files = (names ?? []).map((name) => {
    const path = join(sources, name.replace("src/native/", ""));
    writeFileSync(path, git("show", `${VERSION_1}:${name}`) ?? "");
    return path;
  });
  return compileMonitor("musl-gcc", ["-std=c17", "-Os", "-static"], files);
}

/** The daemon looks for its helper once: from then on what lies there is what its pods get. */
async function plant(binary: string): Promise<void> {
  await node.remove(await node.pod());
  const bin = join(node.directory, "state/bin");
  const [name = ""] = readdirSync(bin).filter((each) => each.startsWith("crib-monitor-"));
  copyFileSync(binary, join(bin, "old"));
  renameSync(join(bin, "old"), join(bin, name));
}

withHistory(
  "pods of a Crib with protocol version 1 live on under this one",
  async () => {
    await plant(buildVersion1());
    const pod = await node.pod();
    const script = "trap 'exit 6' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done";
    const counting = await node.run(pod, { command: ["sh", "-c", script] });
    const meanwhile = await node.run(pod, {
      command: ["sh", "-c", "while [ ! -e /end ]; do sleep 0.05; done; echo bye; exit 7"],
    });
    await until("some lines", () => counting.log().length > 3);
    const { info } = await node.runtime.containerStatus({
      containerId: meanwhile.id,
      verbose: true,
    });
    const { root } = JSON.parse(info.info ?? "") as { root: string };
    await node.kill();
    writeFileSync(join(root, "end"), "");
    const record = join(node.directory, "state/pods", pod.id, "exits", meanwhile.id);
    await until("an exit without a daemon", () => existsSync(record));
    await node.start();

    expect(await node.exited(meanwhile)).toMatchObject({ exitCode: 7 });
    expect(meanwhile.log().map(({ text }) => text)).toEqual(["bye"]);
    const lines = counting.log().length;
    await until("the log goes on", () => counting.log().length > lines + 3);
    expect(await node.sh(counting, "echo hello")).toBe("hello\n");
    renameSync(counting.logPath, `${counting.logPath}.1`);
    await node.runtime.reopenContainerLog({ containerId: counting.id });
    await until("the log goes on in another file", () => counting.log().length > 0);
    expect(await refusal(node.create(pod, { tty: true }))).toMatchObject({
      code: "Unimplemented",
      message: expect.stringContaining("make the pod anew"),
    });
    await node.runtime.stopContainer({ containerId: counting.id, timeout: 30n });
    expect(await node.exited(counting)).toMatchObject({ exitCode: 6 });
    const fresh = await node.run(pod, { command: ["sh", "-c", "exit 8"] });
    expect(await node.exited(fresh)).toMatchObject({ exitCode: 8 });
    const { status } = await node.runtime.podSandboxStatus({ podSandboxId: pod.id });
    expect(status?.state).toBe(PodSandboxState.SANDBOX_READY);
    expect(await node.cleaned()).toEqual([]);
  },
  120_000,
);
