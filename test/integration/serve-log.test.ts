/** The daemon's log: the lines of a request belong together, and people can read it. */
import { expect, test } from "bun:test";
import * as v from "valibot";
import { startCrib } from "../fixtures/crib.ts";
import { refusal, startNode } from "../fixtures/pods.ts";
import { until } from "../fixtures/until.ts";

const Line = v.looseObject({
  level: v.number(),
  time: v.pipe(v.string(), v.isoTimestamp()),
  msg: v.string(),
  rpc: v.optional(v.string()),
  requestId: v.optional(v.pipe(v.string(), v.hexadecimal())),
});

test("each line of a request has its id and its RPC's name, and each request its own id", async () => {
  const node = await startNode();
  try {
    const pod = await node.pod();
    await node.create(pod);
    await refusal(node.runtime.containerStatus({ containerId: "nothing" }));
    const read = () =>
      node.crib
        .log()
        .trim()
        .split("\n")
        .map((line) => v.parse(Line, JSON.parse(line)));
    await until("the refusal's line", () => read().some(({ msg }) => msg === "failed"));
    const lines = read();
    const ofRpc = (rpc: string) => lines.filter((line) => line.rpc === rpc);
    const idsOf = (rpc: string) => new Set(ofRpc(rpc).map(({ requestId }) => requestId));
    for (const rpc of ["RunPodSandbox", "CreateContainer", "ContainerStatus"]) {
      expect([rpc, idsOf(rpc).size]).toEqual([rpc, 1]);
      expect([...idsOf(rpc)][0]).toBeDefined();
    }
    // What happens below an RPC is told with its id too.
    expect(ofRpc("RunPodSandbox").length).toBeGreaterThan(1);
    expect([...idsOf("RunPodSandbox")]).not.toEqual([...idsOf("CreateContainer")]);
  } finally {
    await node.stop();
  }
});

test("log.format pretty is for people: a time, a level's name, the message, the fields below it", async () => {
  const crib = await startCrib({ set: { "log.format": "pretty", "log.level": "debug" } });
  try {
    await crib.runtime.version({});
    await until("the answer's lines", () => crib.log().includes('rpc: "Version"'));
    expect(crib.log()).toMatch(/^\[\d\d:\d\d:\d\d\.\d{3}\] DEBUG: answered$/m);
    expect(crib.log()).toMatch(/^ {4}requestId: "[0-9a-f]{12}"$/m);
    // No colours: this is no terminal.
    expect(crib.log()).not.toContain("\u001b");
  } finally {
    await crib.stop();
  }
});
