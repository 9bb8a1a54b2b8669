/** Creation is a job: retried, joined, handed over, or refused, over CRI with clients that give up. */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { refusal, startNode, type TestNode } from "../fixtures/pods.ts";
import { until } from "../fixtures/until.ts";

let node: TestNode;

beforeAll(async () => {
  node = await startNode();
});

afterEach(async () => {
  for (const gate of ["cni-add", "create", "cni-del", "delete"] as const) node.open(gate);
  expect(await node.cleaned()).toEqual([]);
});

afterAll(async () => {
  await node.stop();
});

/** What the daemon runs or has queued. */
async function operations(): Promise<string[]> {
  const { info } = await node.runtime.status({ verbose: true });
  const parsed = JSON.parse(info.info ?? "{}") as { operations: Array<{ name: string }> };
  return parsed.operations.map(({ name }) => name);
}

async function giveUp(call: (signal: AbortSignal) => Promise<unknown>, at: () => Promise<void>) {
  const controller = new AbortController();
  const running = call(controller.signal);
  await at();
  controller.abort();
  expect(await refusal(running)).toMatchObject({ code: "Canceled" });
}

test("a retried RunPodSandbox joins the one whose client gave up", async () => {
  const config = node.podConfig();
  node.close("cni-add");
  await giveUp(
    (signal) => node.runtime.runPodSandbox({ config }, { signal }),
    () => node.reached("cni-add"),
  );
  const again = [node.runtime.runPodSandbox({ config }), node.runtime.runPodSandbox({ config })];
  await until("one operation", async () => (await operations()).includes("run"));
  expect(await operations()).toEqual(["run"]);
  expect((await node.runtime.listPodSandbox({})).items).toEqual([]);
  node.open("cni-add");
  const ids = (await Promise.all(again)).map(({ podSandboxId }) => podSandboxId);
  expect(new Set(ids).size).toBe(1);
  expect((await node.runtime.listPodSandbox({})).items.map(({ id }) => id)).toEqual(ids.slice(1));
});

test("a pod that was finished after its client had gone is handed to the retry", async () => {
  const config = node.podConfig();
  node.close("cni-add");
  await giveUp(
    (signal) => node.runtime.runPodSandbox({ config }, { signal }),
    () => node.reached("cni-add"),
  );
  node.open("cni-add");
  await until("the pod", async () => (await node.runtime.listPodSandbox({})).items.length === 1);
  const [made] = (await node.runtime.listPodSandbox({})).items;
  const { podSandboxId } = await node.runtime.runPodSandbox({ config });
  expect(podSandboxId).toBe(made?.id ?? "");
  // From now on it has an owner.
  expect(await refusal(node.runtime.runPodSandbox({ config }))).toMatchObject({
    code: "AlreadyExists",
  });
});

test("a client whose deadline is over leaves a job that the next one joins", async () => {
  const config = node.podConfig();
  node.close("cni-add");
  const first = node.runtime.runPodSandbox({ config }, { timeoutMs: 400 });
  expect(await refusal(first)).toMatchObject({ code: "DeadlineExceeded" });
  await node.reached("cni-add");
  node.open("cni-add");
  const { podSandboxId } = await node.runtime.runPodSandbox({ config });
  expect((await node.runtime.listPodSandbox({})).items.map(({ id }) => id)).toEqual([podSandboxId]);
});

test("an unclaimed pod makes way for another one of its name", async () => {
  const config = node.podConfig();
  node.close("cni-add");
  await giveUp(
    (signal) => node.runtime.runPodSandbox({ config }, { signal }),
    () => node.reached("cni-add"),
  );
  const changed = { ...config, labels: { changed: "yes" } };
  const second = node.runtime.runPodSandbox({ config: changed });
  node.open("cni-add");
  const { podSandboxId } = await second;
  const { items } = await node.runtime.listPodSandbox({});
  expect(items.map(({ id, labels }) => ({ id, labels }))).toEqual([
    { id: podSandboxId, labels: { changed: "yes" } },
  ]);
});

test("a pod whose creator has its id is AlreadyExists, whatever the content", async () => {
  const pod = await node.pod();
  for (const config of [pod.config, { ...pod.config, labels: { other: "1" } }]) {
    const { code, message } = await refusal(node.runtime.runPodSandbox({ config }));
    expect(code).toBe("AlreadyExists");
    expect(message).toContain(pod.id);
    expect(message).toContain(pod.config.metadata?.name ?? "");
  }
  const metadata = { ...pod.config.metadata, attempt: 1 };
  await node.runtime.runPodSandbox({ config: { ...pod.config, metadata } });
});

test("a retried CreateContainer joins, and is handed what was finished meanwhile", async () => {
  const pod = await node.pod();
  const config = node.containerConfig();
  const request = { podSandboxId: pod.id, config, sandboxConfig: pod.config };
  node.close("create");
  await giveUp(
    (signal) => node.runtime.createContainer(request, { signal }),
    () => node.reached("create"),
  );
  await giveUp(
    (signal) => node.runtime.createContainer(request, { signal }),
    async () => {
      await Bun.sleep(50);
      expect(await operations()).toEqual(["create"]);
    },
  );
  expect((await node.runtime.listContainers({})).containers).toEqual([]);
  node.open("create");
  await until("the container", async () => {
    return (await node.runtime.listContainers({})).containers.length === 1;
  });
  const { containerId } = await node.runtime.createContainer(request);
  const { containers } = await node.runtime.listContainers({});
  expect(containers.map(({ id }) => id)).toEqual([containerId]);
  const { code, message } = await refusal(node.runtime.createContainer(request));
  expect(code).toBe("AlreadyExists");
  expect(message).toContain(containerId);
  await node.runtime.startContainer({ containerId });
});

test("a container of the same name in another pod, or of another attempt, is another one", async () => {
  const [one, two] = [await node.pod(), await node.pod()];
  const config = node.containerConfig({ metadata: { name: "same", attempt: 0 } });
  const ids = [
    (await node.runtime.createContainer({ podSandboxId: one.id, config })).containerId,
    (await node.runtime.createContainer({ podSandboxId: two.id, config })).containerId,
    (
      await node.runtime.createContainer({
        podSandboxId: one.id,
        config: { ...config, metadata: { name: "same", attempt: 1 } },
      })
    ).containerId,
  ];
  expect(new Set(ids).size).toBe(3);
});

test("a name is free after a failed creation", async () => {
  const config = node.podConfig();
  node.close("cni-add", "fail");
  const { code, message } = await refusal(node.runtime.runPodSandbox({ config }));
  expect({ code, message }).toEqual({
    code: "Internal",
    message: expect.stringContaining("the gate says no"),
  });
  expect(node.leftovers()).toEqual([]);
  node.open("cni-add");
  const { podSandboxId } = await node.runtime.runPodSandbox({ config });
  const container = node.containerConfig();
  const create = () => node.runtime.createContainer({ podSandboxId, config: container });
  node.close("create", "fail");
  const before = node.leftovers();
  expect((await refusal(create())).message).toContain(container.metadata?.name ?? "");
  expect(node.leftovers()).toEqual(before);
  node.open("create");
  await create();
});

test("a failed ADD whose DEL fails too is undone later, and the name is free at once", async () => {
  const config = node.podConfig();
  node.close("cni-add", "fail");
  node.close("cni-del", "fail");
  await refusal(node.runtime.runPodSandbox({ config }));
  node.open("cni-add");
  await node.runtime.runPodSandbox({ config });
  node.open("cni-del");
  await node.restart();
  await node.removeAll();
  await until("the address is back", () => node.leftovers().length === 0);
});

test("stopping and removing a pod while a container is made in it leaves nothing", async () => {
  const pod = await node.pod();
  node.close("create");
  const creating = refusal(node.create(pod));
  await node.reached("create");
  const removing = node.remove(pod);
  await until("the stop is queued", async () => (await operations()).includes("stop"));
  node.open("create");
  expect(await creating).toMatchObject({ code: "FailedPrecondition" });
  await removing;
  expect(node.leftovers()).toEqual([]);
});

test("a container whose removal fails is removed by a later call", async () => {
  const pod = await node.pod();
  const container = await node.create(pod);
  node.close("delete", "fail");
  const remove = () => node.runtime.removeContainer({ containerId: container.id });
  expect((await refusal(remove())).message).toContain("the gate says no");
  node.open("delete");
  await remove();
  expect((await node.runtime.listContainers({})).containers).toEqual([]);
});

test("a failed creation whose clean-up fails too goes with its pod", async () => {
  const pod = await node.pod();
  node.close("create");
  const creating = refusal(node.create(pod));
  await node.reached("create");
  const stopping = node.runtime.stopPodSandbox({ podSandboxId: pod.id }).catch(() => undefined);
  await until("the stop is queued", async () => (await operations()).includes("stop"));
  node.close("delete", "fail");
  node.open("create");
  expect(await creating).toMatchObject({ code: "FailedPrecondition" });
  node.open("delete");
  await stopping;
  await node.remove(pod);
  expect(await node.cleaned()).toEqual([]);
});
