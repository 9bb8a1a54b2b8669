import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CribError } from "../../src/error.ts";
import { Network, type PodAttachment } from "../../src/network/network.ts";

const RESULT = '{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}';
const VERSIONS = '{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}';

let directory: string;
let confDir: string;
let binDir: string;
let cacheDir: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "crib-cni-"));
  [confDir, binDir, cacheDir] = ["conf", "bin", "cache"].map((name) => join(directory, name)) as [
    string,
    string,
    string,
  ];
  mkdirSync(confDir);
  mkdirSync(binDir);
});

afterEach(() => {
  rmSync(directory, { recursive: true });
});

/** Writes a plugin that records each call and then runs the shell lines given for its verb. */
function plugin(type: string, verbs: Record<string, string> = {}): void {
  const all = { VERSION: `echo '${VERSIONS}'`, ADD: `echo '${RESULT}'`, ...verbs };
  const cases = Object.entries(all).map(([verb, body]) => `${verb})\n${body}\n;;`);
  const script = [
    "#!/bin/sh",
    `n=$(ls ${directory} | grep -c '^call')`,
    `call=$(printf '${directory}/call%03d' $n)`,
    `mkdir $call; env > $call/env; cat > $call/stdin; echo "${type} $CNI_COMMAND" > $call/verb`,
    `case "$CNI_COMMAND" in\n${cases.join("\n")}\nesac`,
  ];
  writeFileSync(join(binDir, type), script.join("\n"));
  chmodSync(join(binDir, type), 0o755);
}

interface Call {
  verb: string;
  env: Record<string, string>;
  stdin: Record<string, unknown>;
}

/** The recorded calls in order; questions about versions are left out. */
function calls(): Call[] {
  return readdirSync(directory)
    .filter((name) => name.startsWith("call"))
    .sort()
    .map((name) => {
      const read = (file: string) => readFileSync(join(directory, name, file), "utf8").trim();
      const lines = read("env").split("\n");
      return {
        verb: read("verb"),
        env: Object.fromEntries(lines.map((line) => line.split(/=(.*)/s).slice(0, 2))),
        stdin: JSON.parse(read("stdin") || "{}") as Record<string, unknown>,
      };
    })
    .filter(({ verb }) => !verb.endsWith("VERSION"));
}

function verbs(): string[] {
  return calls().map(({ verb }) => verb);
}

function configure(conf: object, file = "10-n.conflist"): void {
  writeFileSync(join(confDir, file), JSON.stringify({ cniVersion: "1.0.0", name: "n", ...conf }));
}

function open(timeoutMs = 10_000): Network {
  return new Network({ confDir, binDirs: ["/nonexistent", binDir], cacheDir, timeoutMs });
}

function pod(changes: Partial<PodAttachment> = {}): PodAttachment {
  return {
    id: "p1",
    namespace: "default",
    name: "web",
    uid: "u1",
    netns: "/proc/self/ns/net",
    portMappings: [],
    annotations: {},
    cgroupPath: "",
    dns: { servers: [], searches: [], options: [] },
    ...changes,
  };
}

async function refusal(promise: Promise<unknown>): Promise<CribError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof CribError) return error;
    throw error;
  }
  throw new Error("it succeeded");
}

function two(): void {
  plugin("a");
  plugin("b");
  configure({ plugins: [{ type: "a" }, { type: "b", capabilities: { portMappings: true } }] });
}

describe("attach and detach", () => {
  test("plugins run in order with prevResult, and in reverse with the final result for DEL", async () => {
    two();
    const network = open();
    const result = await network.add(
      pod({ portMappings: [{ protocol: "tcp", containerPort: 80, hostPort: 81, hostIp: "" }] }),
    );
    expect(result.ips).toEqual(["10.1.2.3"]);
    expect(network.result("p1")).toEqual(result);
    await network.del("p1");
    expect(verbs()).toEqual(["a ADD", "b ADD", "b DEL", "a DEL"]);
    const [first, second, third, fourth] = calls();
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
    two();
    process.env.BUN_TEST_LEAK = "1";
    await open().add(pod());
    delete process.env.BUN_TEST_LEAK;
    const { env } = calls()[0] as Call;
    expect(env).toMatchObject({
      CNI_COMMAND: "ADD",
      CNI_CONTAINERID: "p1",
      CNI_NETNS: "/proc/self/ns/net",
      CNI_IFNAME: "eth0",
      CNI_PATH: `/nonexistent:${binDir}`,
      CNI_ARGS:
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;" +
        "K8S_POD_INFRA_CONTAINER_ID=p1;K8S_POD_UID=u1",
      PATH: process.env.PATH ?? "",
    });
    const own = Object.keys(env).filter((name) => name !== "PATH" && !name.startsWith("CNI_"));
    expect(own.filter((name) => !["PWD", "OLDPWD", "SHLVL", "_"].includes(name))).toEqual([]);
  });

  test("DEL after a restart uses the configuration of the ADD, not today's", async () => {
    two();
    await open().add(pod());
    plugin("c");
    configure({ name: "other", plugins: [{ type: "c" }] });
    const later = open();
    expect(later.result("p1")?.ips).toEqual(["10.1.2.3"]);
    expect(await later.attachments()).toEqual(["p1"]);
    await later.del("p1");
    expect(verbs().slice(2)).toEqual(["b DEL", "a DEL"]);
    expect(calls()[2]?.stdin.name).toBe("n");
  });

  test("DEL with the namespace gone leaves CNI_NETNS empty", async () => {
    two();
    const pin = join(directory, "pin");
    writeFileSync(pin, "");
    const network = open();
    await network.add(pod({ netns: pin }));
    await network.del("p1");
    expect(calls().map(({ env }) => env.CNI_NETNS)).toEqual([pin, pin, "", ""]);
  });

  test("DEL of a pod that was never attached runs nothing", async () => {
    two();
    await open().del("p9");
    expect(verbs()).toEqual([]);
  });

  test("a failing DEL keeps its record and the next one tries again", async () => {
    two();
    const network = open();
    await network.add(pod());
    plugin("b", { DEL: "echo broken >&2; exit 1" });
    const error = await refusal(network.del("p1"));
    expect(error.message).toContain("CNI plugin b: DEL for network n, pod default/web: failed");
    expect(error.message).toContain("broken");
    expect(await network.attachments()).toEqual(["p1"]);
    plugin("b");
    await network.del("p1");
    expect(await network.attachments()).toEqual([]);
    expect(verbs().slice(-2)).toEqual(["b DEL", "a DEL"]);
  });

  test("a second ADD of the same pod undoes the first", async () => {
    two();
    const network = open();
    await Promise.all([network.add(pod()), network.add(pod())]);
    const once = ["a ADD", "b ADD"];
    expect(verbs()).toEqual([...once, "b DEL", "a DEL", ...once]);
  });

  test("the record is on disk before the first plugin runs, and only root may read it", async () => {
    plugin("a", { ADD: `cp ${cacheDir}/p1.json ${directory}/seen; echo '${RESULT}'` });
    configure({ plugins: [{ type: "a" }] });
    await open().add(pod());
    const seen = JSON.parse(readFileSync(join(directory, "seen"), "utf8")) as object;
    expect(seen).toMatchObject({ podId: "p1", network: { name: "n" } });
    expect(seen).not.toHaveProperty("result");
    expect(statSync(join(cacheDir, "p1.json")).mode & 0o777).toBe(0o600);
    expect(statSync(cacheDir).mode & 0o777).toBe(0o700);
  });

  test("a damaged record is detached with today's configuration", async () => {
    two();
    const network = open();
    await network.add(pod());
    writeFileSync(join(cacheDir, "p1.json"), '{"version":1,');
    const later = open();
    expect(later.result("p1")).toBeUndefined();
    await later.del("p1");
    expect(verbs().slice(2)).toEqual(["b DEL", "a DEL"]);
    expect(await later.attachments()).toEqual([]);
  });

  test("an id that is no file name is refused", async () => {
    two();
    const error = await refusal(open().add(pod({ id: "../x" })));
    expect(error.code).toBe("InvalidArgument");
    expect(verbs()).toEqual([]);
  });

  test("a plugin that reads no input and writes nothing passes the result on", async () => {
    plugin("a");
    writeFileSync(join(binDir, "b"), "#!/bin/sh\n");
    chmodSync(join(binDir, "b"), 0o755);
    configure({ plugins: [{ type: "a" }, { type: "b" }] });
    expect((await open().add(pod())).ips).toEqual(["10.1.2.3"]);
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
      two();
      plugin("b", { ADD });
      const network = open();
      const error = await refusal(network.add(pod()));
      expect(error.message).toContain(message);
      expect(error.message).toContain("network n, pod default/web");
      expect(error.code).toBe(code);
      expect(verbs()).toEqual(["a ADD", "b ADD", "b DEL", "a DEL"]);
      expect(await network.attachments()).toEqual([]);
      expect(network.result("p1")).toBeUndefined();
    });
  }

  test("hangs: it and its children are killed and the attachment is undone", async () => {
    two();
    plugin("b", { ADD: `sleep 1000 & echo $! > ${directory}/child; sleep 1000` });
    const error = await refusal(open(500).add(pod()));
    expect(error.code).toBe("DeadlineExceeded");
    expect(error.message).toContain("CNI plugin b: ADD for network n, pod default/web: killed");
    expect(verbs()).toEqual(["a ADD", "b ADD", "b DEL", "a DEL"]);
    const child = readFileSync(join(directory, "child"), "utf8").trim();
    const state = () => readFileSync(`/proc/${child}/stat`, "utf8").split(" ")[2];
    expect(!existsSync(`/proc/${child}`) || state() === "Z").toBe(true);
  });

  test("asks to try later: the whole attachment is undone and made again", async () => {
    two();
    const later = `echo '{"code":11,"msg":"later"}'; exit 1`;
    const marker = `${directory}/marker`;
    plugin("b", {
      ADD: `if [ -e ${marker} ]; then echo '${RESULT}'; else touch ${marker}; ${later}; fi`,
    });
    expect((await open().add(pod())).ips).toEqual(["10.1.2.3"]);
    const once = ["a ADD", "b ADD"];
    expect(verbs()).toEqual([...once, "b DEL", "a DEL", ...once]);
  });

  test("fails ADD and then DEL: the record stays for a later DEL", async () => {
    two();
    plugin("b", { ADD: "exit 1", DEL: "exit 1" });
    const network = open();
    expect((await refusal(network.add(pod()))).message).toContain("ADD");
    expect(await network.attachments()).toEqual(["p1"]);
    plugin("b");
    await open().del("p1");
    expect(await network.attachments()).toEqual([]);
  });
});

describe("readiness", () => {
  async function message(network: Network): Promise<string> {
    const status = await network.status();
    expect(status.reason).toBe(status.ready ? "" : "NetworkPluginNotReady");
    return status.message;
  }

  test("is told at once when a configuration appears, breaks, is repaired or goes", async () => {
    const network = open();
    expect(await message(network)).toBe(`${confDir}: there is no CNI configuration file`);
    expect((await refusal(network.add(pod()))).code).toBe("Unavailable");
    two();
    expect(await network.status()).toEqual({ ready: true, reason: "", message: "" });
    writeFileSync(join(confDir, "10-n.conflist"), "{");
    expect(await message(network)).toContain("10-n.conflist: is not JSON");
    expect((await refusal(network.add(pod()))).code).toBe("FailedPrecondition");
    two();
    expect((await network.status()).ready).toBe(true);
    rmSync(confDir, { recursive: true });
    expect(await message(network)).toContain("there is no CNI configuration file");
  });

  test("the first file in lexical order counts, other files do not", async () => {
    plugin("a");
    configure({ plugins: [{ type: "absent" }] }, "20-x.conflist");
    configure({ type: "a" }, "10-x.conf");
    writeFileSync(join(confDir, "00-readme.txt"), "x");
    writeFileSync(join(confDir, "05-old.conflist.bak"), "x");
    mkdirSync(join(confDir, "00-dir.conf"));
    expect((await open().status()).ready).toBe(true);
    await open().add(pod());
    expect(verbs()).toEqual(["a ADD"]);
  });

  test("a missing plugin, also of address management, is named with the directories", async () => {
    plugin("a");
    configure({ plugins: [{ type: "a", ipam: { type: "host-local" } }, { type: "x" }] });
    const network = open();
    expect(await message(network)).toContain(
      `CNI plugin host-local, x: no such executable in /nonexistent, ${binDir}`,
    );
    plugin("x");
    plugin("host-local");
    expect((await network.status()).ready).toBe(true);
  });

  test("a version that a plugin does not speak is told before any pod fails", async () => {
    const old = `echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}'`;
    plugin("a", { VERSION: old });
    configure({ plugins: [{ type: "a" }] });
    expect(await message(open())).toContain("cniVersion 1.0.0: CNI plugin a speaks 0.3.1, 0.4.0");
  });

  test("the newest version that all plugins speak is used", async () => {
    const old = `echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}'`;
    plugin("a", { VERSION: old });
    plugin("b");
    configure({ cniVersions: ["1.1.0", "0.4.0"], plugins: [{ type: "a" }, { type: "b" }] });
    await open().add(pod());
    expect(calls()[0]?.stdin.cniVersion).toBe("0.4.0");
  });

  test("before 0.4.0 DEL gets no prevResult", async () => {
    two();
    configure({ cniVersion: "0.3.1", plugins: [{ type: "a" }] });
    const network = open();
    await network.add(pod());
    await network.del("p1");
    expect(calls()[1]?.stdin).not.toHaveProperty("prevResult");
  });

  test("STATUS of a 1.1 network is asked, its refusal told, and asked again until it is good", async () => {
    plugin("a", { STATUS: `echo '{"code":50,"msg":"daemon down"}'; exit 1` });
    configure({ cniVersion: "1.1.0", plugins: [{ type: "a" }] });
    const network = open();
    expect(await message(network)).toContain("daemon down (CNI error 50)");
    expect(await message(network)).toContain("daemon down");
    plugin("a");
    expect((await network.status()).ready).toBe(true);
    expect((await network.status()).ready).toBe(true);
    expect(verbs()).toEqual(["a STATUS", "a STATUS", "a STATUS"]);
    expect(calls()[0]?.stdin).toEqual({ type: "a", name: "n", cniVersion: "1.1.0" });
  });

  test("plugins in the directory named like the network are added, unless the list forbids it", async () => {
    plugin("a");
    plugin("b");
    mkdirSync(join(confDir, "n"));
    writeFileSync(join(confDir, "n/b.conf"), '{"type":"b"}');
    configure({ plugins: [{ type: "a" }] });
    const network = open();
    await network.add(pod());
    expect(verbs()).toEqual(["a ADD", "b ADD"]);
    configure({ loadOnlyInlinedPlugins: true, plugins: [{ type: "a" }] });
    await network.add(pod({ id: "p2" }));
    expect(verbs().slice(2)).toEqual(["a ADD"]);
  });
});

describe("garbage collection", () => {
  test("detaches pods that are no more and tells 1.1 plugins which attachments are valid", async () => {
    plugin("a");
    configure({ cniVersion: "1.1.0", plugins: [{ type: "a" }] });
    const network = open();
    for (const id of ["p1", "p2"]) await network.add(pod({ id }));
    await network.gc(["p2", "p3"]);
    expect(verbs()).toEqual(["a ADD", "a ADD", "a DEL", "a GC"]);
    expect(calls()[2]?.env.CNI_CONTAINERID).toBe("p1");
    const valid = [{ containerID: "p2", ifname: "eth0" }];
    expect(calls()[3]?.stdin).toMatchObject({ "cni.dev/valid-attachments": valid });
    expect(await network.attachments()).toEqual(["p2"]);
  });

  test("GC is not called below 1.1 or when the network forbids it", async () => {
    plugin("a");
    configure({ plugins: [{ type: "a" }] });
    await open().gc([]);
    configure({ cniVersion: "1.1.0", disableGC: true, plugins: [{ type: "a" }] });
    await open().gc([]);
    expect(verbs()).toEqual([]);
  });

  test("a stale pod that cannot be detached does not keep the others", async () => {
    plugin("a", { DEL: '[ "$CNI_CONTAINERID" = p2 ]' });
    configure({ plugins: [{ type: "a" }] });
    const network = open();
    for (const id of ["p1", "p2"]) await network.add(pod({ id }));
    await network.gc([]);
    expect(await network.attachments()).toEqual(["p1"]);
  });

  test("runs alone: it waits for running operations and later ones wait for it", async () => {
    plugin("a", { ADD: `sleep 0.2; echo '${RESULT}'`, GC: "sleep 0.2" });
    configure({ cniVersion: "1.1.0", plugins: [{ type: "a" }] });
    const network = open();
    const first = network.add(pod());
    const collecting = network.gc(["p1", "p2"]);
    await first;
    await Bun.sleep(50);
    await Promise.all([collecting, network.add(pod({ id: "p2" }))]);
    expect(verbs()).toEqual(["a ADD", "a GC", "a ADD"]);
  });
});
