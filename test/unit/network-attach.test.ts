import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { CribError } from "../../src/error.ts";
import type { PodAttachment } from "../../src/network/attachment.ts";
import { attachment, type Call, RESULT, refusal, useFakeCni } from "../fixtures/fake-cni.ts";

const cni = useFakeCni();

describe("what nobody in the network does", () => {
  const ports = {
    portMappings: [
      { protocol: "tcp", containerPort: 80, hostPort: 0, hostIp: "" },
      { protocol: "tcp", containerPort: 81, hostPort: 8081, hostIp: "" },
    ],
  } as Partial<PodAttachment>;
  const limited = { annotations: { "kubernetes.io/ingress-bandwidth": "1M" } };

  test.each<[string, Partial<PodAttachment>, string]>([
    ["host ports", ports, "config.port_mappings[1].host_port: 8081: no plugin of network n has"],
    [
      "bandwidth",
      limited,
      'config.annotations["kubernetes.io/ingress-bandwidth"]: "1M": no plugin of network n has',
    ],
  ])(
    "%s: the pod is refused before any plugin runs, and nothing is recorded",
    async (_, asks, text) => {
      cni().one();
      const network = cni().open();
      const refused = await refusal(network.add(attachment(asks)));
      expect(refused).toMatchObject({ code: "FailedPrecondition" });
      expect(refused.message).toContain(text);
      expect(cni().verbs()).toEqual([]);
      expect(await network.attachments()).toEqual([]);
    },
  );

  test("counts from the configuration of now: a plugin that came meanwhile is told", async () => {
    cni().one();
    const network = cni().open();
    await refusal(network.add(attachment(ports)));
    cni().two();
    await network.add(attachment(ports));
    expect(cni().verbs()).toEqual(["a ADD", "b ADD"]);
  });

  test("is no matter where the node's owner says that the network does it", async () => {
    cni().one();
    const network = cni().open(10_000, ["portMappings", "bandwidth"]);
    await network.add(attachment({ ...ports, ...limited }));
    expect(cni().verbs()).toEqual(["a ADD"]);
  });
});

describe("attach and detach", () => {
  test("plugins run in order with prevResult, and in reverse with the final result for DEL", async () => {
    cni().two();
    const network = cni().open();
    const result = await network.add(
      attachment({
        portMappings: [{ protocol: "tcp", containerPort: 80, hostPort: 81, hostIp: "" }],
      }),
    );
    expect(result.ips).toEqual(["10.1.2.3"]);
    expect(network.result("p1")).toEqual(result);
    await network.del("p1");
    expect(cni().verbs()).toEqual(["a ADD", "b ADD", "b DEL", "a DEL"]);
    const [first, second, third, fourth] = cni().calls();
    const mappings = [{ hostPort: 81, containerPort: 80, protocol: "tcp" }];
    expect(first?.stdin).toEqual({ type: "a", name: "n", cniVersion: "1.0.0" });
    expect(second?.stdin).toEqual({
      type: "b",
      name: "n",
      cniVersion: "1.0.0",
      runtimeConfig: { portMappings: mappings },
      prevResult: JSON.parse(RESULT),
    });
    expect(third?.stdin).toEqual(second?.stdin ?? {});
    expect(fourth?.stdin.prevResult).toEqual(JSON.parse(RESULT));
    expect(network.result("p1")).toBeUndefined();
    expect(await network.attachments()).toEqual([]);
  });

  test("plugins see PATH and CNI variables and nothing else of the daemon's environment", async () => {
    cni().two();
    process.env.BUN_TEST_LEAK = "1";
    await cni().open().add(attachment());
    delete process.env.BUN_TEST_LEAK;
    const { env } = cni().calls()[0] as Call;
    expect(env).toMatchObject({
      CNI_COMMAND: "ADD",
      CNI_CONTAINERID: "p1",
      CNI_NETNS: "/proc/self/ns/net",
      CNI_IFNAME: "eth0",
      CNI_PATH: `/nonexistent:${cni().binDir}`,
      CNI_ARGS:
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;" +
        "K8S_POD_INFRA_CONTAINER_ID=p1;K8S_POD_UID=u1",
      PATH: process.env.PATH ?? "",
    });
    const own = Object.keys(env).filter((name) => name !== "PATH" && !name.startsWith("CNI_"));
    expect(own.filter((name) => !["PWD", "OLDPWD", "SHLVL", "_"].includes(name))).toEqual([]);
  });

  test("DEL after a restart uses the configuration of the ADD, not today's", async () => {
    cni().two();
    await cni().open().add(attachment());
    cni().plugin("c");
    cni().configure({ name: "other", plugins: [{ type: "c" }] });
    const later = cni().open();
    expect(later.result("p1")?.ips).toEqual(["10.1.2.3"]);
    expect(await later.attachments()).toEqual(["p1"]);
    await later.del("p1");
    expect(cni().verbs().slice(2)).toEqual(["b DEL", "a DEL"]);
    expect(cni().calls()[2]?.stdin.name).toBe("n");
  });

  test("DEL with the namespace gone leaves CNI_NETNS empty", async () => {
    cni().two();
    const pin = join(cni().directory, "pin");
    writeFileSync(pin, "");
    const network = cni().open();
    await network.add(attachment({ netns: pin }));
    await network.del("p1");
    expect(
      cni()
        .calls()
        .map(({ env }) => env.CNI_NETNS),
    ).toEqual([pin, pin, "", ""]);
  });

  test("DEL of a pod that was never attached runs nothing", async () => {
    cni().two();
    await cni().open().del("p9");
    expect(cni().verbs()).toEqual([]);
  });

  test("a failing DEL keeps its record and the next one tries again", async () => {
    cni().two();
    const network = cni().open();
    await network.add(attachment());
    cni().plugin("b", { DEL: "echo broken >&2; exit 1" });
    const error = await refusal(network.del("p1"));
    expect(error.message).toContain("CNI plugin b: DEL for network n, pod default/web: failed");
    expect(error.message).toContain("broken");
    expect(await network.attachments()).toEqual(["p1"]);
    cni().plugin("b");
    await network.del("p1");
    expect(await network.attachments()).toEqual([]);
    expect(cni().verbs().slice(-2)).toEqual(["b DEL", "a DEL"]);
  });

  test("a second ADD of the same pod undoes the first", async () => {
    cni().two();
    const network = cni().open();
    await Promise.all([network.add(attachment()), network.add(attachment())]);
    const once = ["a ADD", "b ADD"];
    expect(cni().verbs()).toEqual([...once, "b DEL", "a DEL", ...once]);
  });

  test("the record is on disk before the first plugin runs, and only root may read it", async () => {
    cni().plugin("a", {
      ADD: `cp ${cni().cacheDir}/p1.json ${cni().directory}/seen; echo '${RESULT}'`,
    });
    cni().configure({ plugins: [{ type: "a" }] });
    await cni().open().add(attachment());
    const seen = JSON.parse(readFileSync(join(cni().directory, "seen"), "utf8")) as object;
    expect(seen).toMatchObject({ podId: "p1", network: { name: "n" } });
    expect(seen).not.toHaveProperty("result");
    expect(statSync(join(cni().cacheDir, "p1.json")).mode & 0o777).toBe(0o600);
    expect(statSync(cni().cacheDir).mode & 0o777).toBe(0o700);
  });

  test("a damaged record is detached with today's configuration", async () => {
    cni().two();
    const network = cni().open();
    await network.add(attachment());
    writeFileSync(join(cni().cacheDir, "p1.json"), '{"version":1,');
    const later = cni().open();
    expect(later.result("p1")).toBeUndefined();
    await later.del("p1");
    expect(cni().verbs().slice(2)).toEqual(["b DEL", "a DEL"]);
    expect(await later.attachments()).toEqual([]);
  });

  test("an id that is no file name is refused", async () => {
    cni().two();
    const error = await refusal(
      cni()
        .open()
        .add(attachment({ id: "../x" })),
    );
    expect(error.code).toBe("InvalidArgument");
    expect(cni().verbs()).toEqual([]);
  });

  test("a plugin that reads no input and writes nothing passes the result on", async () => {
    cni().plugin("a");
    cni().executable("b", "#!/bin/sh\n");
    cni().configure({ plugins: [{ type: "a" }, { type: "b" }] });
    expect((await cni().open().add(attachment())).ips).toEqual(["10.1.2.3"]);
  });
});

describe("a plugin that misbehaves", () => {
  const cases: Array<[name: string, ADD: string, code: CribError["code"], message: string]> = [
    [
      "reports an error",
      `echo '{"code":101,"msg":"no addresses left","details":"range is full"}'; exit 1`,
      "Internal",
      "no addresses left; range is full (CNI error 101)",
    ],
    [
      "refuses its configuration",
      `echo '{"code":7,"msg":"bad subnet"}'; exit 1`,
      "FailedPrecondition",
      "bad subnet (CNI error 7)",
    ],
    [
      "is not available",
      `echo '{"code":50,"msg":"daemon down"}'; exit 1`,
      "Unavailable",
      "daemon down (CNI error 50)",
    ],
    ["fails without an error object", "echo oops >&2; exit 3", "Internal", "exit code 3: oops"],
    ["writes garbage", "echo '<html>'", "Internal", "its output is not JSON: <html>"],
    ["writes without end", "yes | head -c 3000000", "Internal", "wrote more than 1048576 bytes"],
    ["gives no address", "echo '{\"ips\":[]}'", "Internal", "there is no address for the pod"],
    ["gives a bad address", `echo '{"ips":[{"address":"x"}]}'`, "Internal", "ips.0.address"],
    ["is killed", "kill -9 $$", "Internal", "exit code 137"],
  ];
  for (const [name, ADD, code, message] of cases) {
    test(`${name}: the error says so and the attachment is undone`, async () => {
      cni().two();
      cni().plugin("b", { ADD });
      const network = cni().open();
      const error = await refusal(network.add(attachment()));
      expect(error.message).toContain(message);
      expect(error.message).toContain("network n, pod default/web");
      expect(error.code).toBe(code);
      expect(cni().verbs()).toEqual(["a ADD", "b ADD", "b DEL", "a DEL"]);
      expect(await network.attachments()).toEqual([]);
      expect(network.result("p1")).toBeUndefined();
    });
  }

  test("hangs: it and its children are killed and the attachment is undone", async () => {
    cni().two();
    cni().plugin("b", { ADD: `sleep 1000 & echo $! > ${cni().directory}/child; sleep 1000` });
    const error = await refusal(cni().open(500).add(attachment()));
    expect(error.code).toBe("DeadlineExceeded");
    expect(error.message).toContain("CNI plugin b: ADD for network n, pod default/web: killed");
    expect(cni().verbs()).toEqual(["a ADD", "b ADD", "b DEL", "a DEL"]);
    const child = readFileSync(join(cni().directory, "child"), "utf8").trim();
    const state = () => readFileSync(`/proc/${child}/stat`, "utf8").split(" ")[2];
    expect(!existsSync(`/proc/${child}`) || state() === "Z").toBe(true);
  });

  test("asks to try later: the whole attachment is undone and made again", async () => {
    cni().two();
    const later = `echo '{"code":11,"msg":"later"}'; exit 1`;
    const marker = `${cni().directory}/marker`;
    cni().plugin("b", {
      ADD: `if [ -e ${marker} ]; then echo '${RESULT}'; else touch ${marker}; ${later}; fi`,
    });
    expect((await cni().open().add(attachment())).ips).toEqual(["10.1.2.3"]);
    const once = ["a ADD", "b ADD"];
    expect(cni().verbs()).toEqual([...once, "b DEL", "a DEL", ...once]);
  });

  test("fails ADD and then DEL: the record stays for a later DEL", async () => {
    cni().two();
    cni().plugin("b", { ADD: "exit 1", DEL: "exit 1" });
    const network = cni().open();
    expect((await refusal(network.add(attachment()))).message).toContain("ADD");
    expect(await network.attachments()).toEqual(["p1"]);
    cni().plugin("b");
    await cni().open().del("p1");
    expect(await network.attachments()).toEqual([]);
  });
});
