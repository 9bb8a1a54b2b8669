/** Exec, Attach and dial as the streaming server calls them, over a real monitor and runc. Needs root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { attach } from "../../src/container/attach.ts";
import type { Core } from "../../src/container/core.ts";
import { exec } from "../../src/container/exec.ts";
import { containerPaths } from "../../src/container/paths.ts";
import type { CommandRequest } from "../../src/container/streams.ts";
import { ContainerConfig } from "../../src/gen/runtime/v1/container_config_pb.ts";
import { detectCgroups } from "../../src/linux/cgroup.ts";
import { dial } from "../../src/pod/dial.ts";
import { OciRuntime } from "../../src/runtime/oci-runtime.ts";
import type { ContainerRecord } from "../../src/state/records.ts";
import type { StreamingBackend } from "../../src/streaming/channels.ts";
import { until } from "../fixtures/until.ts";
import { buildMonitor, type Launch, read, TestPod } from "./monitor-harness.ts";

const POD = "pod1";
let pod: TestPod;
let core: Core;
let backend: StreamingBackend;

beforeAll(async () => {
  pod = await TestPod.start(buildMonitor());
  const path = Bun.which("runc", { PATH: `${process.env.PATH}:/usr/sbin` }) ?? "/usr/sbin/runc";
  const runtime = new OciRuntime({
    handler: "runc",
    path,
    root: pod.path("runc"),
    systemdCgroup: false,
  });
  const containers = new Map<string, ContainerRecord>();
  // Only what these three look at.
  core = {
    config: { crib: { state: pod.root }, container: { exec_drain_timeout_seconds: 1 } },
    store: {
      containers,
      pods: new Map([[POD, { id: POD, phase: "ready" }]]),
      containerConfig: (id: string) => containers.get(id)?.config,
    },
    handlers: { existing: () => runtime },
    monitors: new Map([[POD, pod.monitor]]),
    cgroups: detectCgroups(),
  } as unknown as Core;
  backend = {
    exec: (request) => exec(core, request),
    attach: (request) => attach(core, request),
    dial: (podSandboxId, port) => dial(core, podSandboxId, port),
  };
});
afterAll(async () => pod.dispose());

/** A running container that the core knows. */
async function run(launch: Launch): Promise<string> {
  const id = await pod.run(launch);
  const { stdin, stdinOnce, tty } = launch;
  const config = ContainerConfig.fromPartial({ stdin, stdinOnce, tty });
  const record = { id, podId: POD, phase: "running", config };
  core.store.containers.set(id, record as never);
  return id;
}

const request = (containerId: string, changes: Partial<CommandRequest> = {}): CommandRequest => ({
  containerId,
  command: ["true"],
  tty: false,
  stdin: false,
  stdout: true,
  stderr: false,
  ...changes,
});

const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => "it worked",
    (error: { code: string; message: string }) => `${error.code}: ${error.message}`,
  );

test("requests that make no sense are refused", async () => {
  const id = await run({ args: ["sleep", "1000"] });
  const none = { stdout: false };
  const refusals: Array<[Promise<unknown>, string]> = [
    [backend.exec(request("")), "InvalidArgument: container id is empty"],
    [backend.attach(request("")), "InvalidArgument: container id is empty"],
    [backend.exec(request("nobody")), "NotFound: "],
    [backend.attach(request("nobody")), "NotFound: "],
    [backend.exec(request(id, { command: [] })), "InvalidArgument: cmd"],
    [backend.exec(request(id, { tty: true, stderr: true })), "InvalidArgument: stderr"],
    [backend.exec(request(id, none)), "InvalidArgument: stdin, stdout and stderr"],
    [backend.attach(request(id, none)), "InvalidArgument: stdin, stdout and stderr"],
    [backend.attach(request(id, { stdin: true })), "FailedPrecondition: "],
    [backend.dial("", 80), "InvalidArgument: "],
    [backend.dial("nobody", 80), "NotFound: "],
    [backend.dial(POD, 0), "InvalidArgument: port"],
    [backend.dial(POD, 65_536), "InvalidArgument: port"],
    [backend.dial(POD, 1), "FailedPrecondition: "],
  ];
  for (const [attempt, expected] of refusals) expect(await failure(attempt)).toStartWith(expected);
  const record = core.store.containers.get(id);
  if (record !== undefined) record.phase = "exited";
  expect(await failure(backend.exec(request(id)))).toContain("is exited, not running");
  expect(await failure(backend.attach(request(id)))).toContain("is exited, not running");
});

test("an exec's streams, exit code and files", async () => {
  const id = await run({ args: ["sleep", "1000"] });
  const command = ["sh", "-c", "cat; echo err >&2; exit 9"];
  const streams = await backend.exec(request(id, { command, stdin: true, stderr: true }));
  streams.stdin?.end("in and out");
  expect(await read(streams.stdout)).toBe("in and out");
  expect(await read(streams.stderr)).toBe("err\n");
  expect(await streams.ended).toMatchObject({ exitCode: 9 });
  streams.close();
  streams.close();
  const tty = await backend.exec(request(id, { command: ["sh", "-c", "echo $TERM"], tty: true }));
  expect(await read(tty.stdout)).toBe("xterm\r\n");
  expect(await tty.ended).toMatchObject({ exitCode: 0 });
  const missing = await backend.exec(request(id, { command: ["/missing"] }));
  expect(await failure(missing.ended)).toMatch(
    /^FailedPrecondition: cannot run "\/missing" in container .*no such file or directory/,
  );
  const { bundle } = containerPaths(core, id);
  expect(bundle).toBe(pod.path(`containers/${id}`));
  const kept = "config.json,process.json";
  await until("its files are gone", () => readdirSync(bundle).sort().join() === kept);
});

test("an attach ends well with its container, whatever the exit code", async () => {
  const id = await run({
    args: ["sh", "-c", "read x; echo $x; exit 5"],
    stdin: true,
    stdinOnce: true,
  });
  const streams = await backend.attach(request(id, { stdin: true, stderr: true }));
  streams.stdin?.end("word\n");
  expect(await read(streams.stdout)).toBe("word\n");
  expect(await streams.ended).toEqual({ exitCode: 0 });
  streams.close();
});

test("without stdin_once an attach ends with its client's input, which the container still gets", async () => {
  const id = await run({ args: ["cat"], stdin: true });
  const streams = await backend.attach(request(id, { stdin: true }));
  streams.stdin?.end("word\n");
  expect(await streams.ended).toEqual({ exitCode: 0 });
  streams.close();
  await until("the container has it", () => pod.log(id).includes(" F word\n"));
});

test("a terminal is the container's own: a client that takes it for another is refused", async () => {
  const id = await run({ args: ["sh", "-c", "read x; stty size"], stdin: true, tty: true });
  const other = backend.attach(request(id, { stdin: true }));
  expect(await failure(other)).toContain("tty: false: the container was made with tty true");
  const streams = await backend.attach(request(id, { stdin: true, tty: true }));
  streams.resize({ columns: 70, rows: 20 });
  streams.stdin?.end("go\n");
  expect(await read(streams.stdout)).toEndWith("20 70\r\n");
  expect(await streams.ended).toEqual({ exitCode: 0 });
  streams.close();
});
