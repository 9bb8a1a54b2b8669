import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Network } from "../../src/network/network.ts";
import { attachment, RESULT, refusal, useFakeCni, VERSIONS } from "../fixtures/fake-cni.ts";

const cni = useFakeCni();

describe("readiness", () => {
  async function message(network: Network): Promise<string> {
    const status = await network.status();
    expect(status.reason).toBe(status.ready ? "" : "NetworkPluginNotReady");
    return status.message;
  }

  test("is told at once when a configuration appears, breaks, is repaired or goes", async () => {
    const network = cni().open();
    expect(await message(network)).toBe(`${cni().confDir}: there is no CNI configuration file`);
    expect((await refusal(network.add(attachment()))).code).toBe("Unavailable");
    cni().two();
    expect(await network.status()).toEqual({ ready: true, reason: "", message: "" });
    writeFileSync(join(cni().confDir, "10-n.conflist"), "{");
    expect(await message(network)).toContain("10-n.conflist: is not JSON");
    expect((await refusal(network.add(attachment()))).code).toBe("FailedPrecondition");
    cni().two();
    expect((await network.status()).ready).toBe(true);
    rmSync(cni().confDir, { recursive: true });
    expect(await message(network)).toContain("there is no CNI configuration file");
  });

  test("the first file in lexical order counts, other files do not", async () => {
    cni().plugin("a");
    cni().configure({ plugins: [{ type: "absent" }] }, "20-x.conflist");
    cni().configure({ type: "a" }, "10-x.conf");
    writeFileSync(join(cni().confDir, "00-readme.txt"), "x");
    writeFileSync(join(cni().confDir, "05-old.conflist.bak"), "x");
    mkdirSync(join(cni().confDir, "00-dir.conf"));
    expect((await cni().open().status()).ready).toBe(true);
    await cni().open().add(attachment());
    expect(cni().verbs()).toEqual(["a ADD"]);
  });

  test("a missing plugin, also of address management, is named with the directories", async () => {
    cni().plugin("a");
    cni().configure({ plugins: [{ type: "a", ipam: { type: "host-local" } }, { type: "x" }] });
    const network = cni().open();
    expect(await message(network)).toContain(
      `CNI plugin host-local, x: no such executable in /nonexistent, ${cni().binDir}`,
    );
    cni().plugin("x");
    cni().plugin("host-local");
    expect((await network.status()).ready).toBe(true);
  });

  test("a version that a plugin does not speak is told before any pod fails", async () => {
    const old = `echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}'`;
    cni().plugin("a", { VERSION: old });
    cni().configure({ plugins: [{ type: "a" }] });
    expect(await message(cni().open())).toContain(
      "cniVersion 1.0.0: CNI plugin a speaks 0.3.1, 0.4.0",
    );
  });

  test("the newest version that all plugins speak is used", async () => {
    const old = `echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}'`;
    cni().plugin("a", { VERSION: old });
    cni().plugin("b");
    cni().configure({ cniVersions: ["1.1.0", "0.4.0"], plugins: [{ type: "a" }, { type: "b" }] });
    await cni().open().add(attachment());
    expect(cni().calls()[0]?.stdin.cniVersion).toBe("0.4.0");
  });

  test("before 0.4.0 DEL gets no prevResult", async () => {
    cni().two();
    cni().configure({ cniVersion: "0.3.1", plugins: [{ type: "a" }] });
    const network = cni().open();
    await network.add(attachment());
    await network.del("p1");
    expect(cni().calls()[1]?.stdin).not.toHaveProperty("prevResult");
  });

  test("STATUS of a 1.1 network is asked, its refusal told, and asked again until it is good", async () => {
    cni().plugin("a", { STATUS: `echo '{"code":50,"msg":"daemon down"}'; exit 1` });
    cni().configure({ cniVersion: "1.1.0", plugins: [{ type: "a" }] });
    const network = cni().open();
    expect(await message(network)).toContain("daemon down (CNI error 50)");
    expect(await message(network)).toContain("daemon down");
    cni().plugin("a");
    expect((await network.status()).ready).toBe(true);
    expect((await network.status()).ready).toBe(true);
    expect(cni().verbs()).toEqual(["a STATUS", "a STATUS", "a STATUS"]);
    expect(cni().calls()[0]?.stdin).toEqual({ type: "a", name: "n", cniVersion: "1.1.0" });
  });

  test("plugins in the directory named like the network are added, unless the list forbids it", async () => {
    cni().plugin("a");
    cni().plugin("b");
    mkdirSync(join(cni().confDir, "n"));
    writeFileSync(join(cni().confDir, "n/b.conf"), '{"type":"b"}');
    cni().configure({ plugins: [{ type: "a" }] });
    const network = cni().open();
    await network.add(attachment());
    expect(cni().verbs()).toEqual(["a ADD", "b ADD"]);
    cni().configure({ loadOnlyInlinedPlugins: true, plugins: [{ type: "a" }] });
    await network.add(attachment({ id: "p2" }));
    expect(cni().verbs().slice(2)).toEqual(["a ADD"]);
  });
});

describe("garbage collection", () => {
  test("detaches pods that are no more and tells 1.1 plugins which attachments are valid", async () => {
    cni().plugin("a");
    cni().configure({ cniVersion: "1.1.0", plugins: [{ type: "a" }] });
    const network = cni().open();
    for (const id of ["p1", "p2"]) await network.add(attachment({ id }));
    await network.gc((id) => id !== "p1");
    expect(cni().verbs()).toEqual(["a ADD", "a ADD", "a DEL", "a GC"]);
    expect(cni().calls()[2]?.env.CNI_CONTAINERID).toBe("p1");
    const valid = [{ containerID: "p2", ifname: "eth0" }];
    expect(cni().calls()[3]?.stdin).toMatchObject({ "cni.dev/valid-attachments": valid });
    expect(await network.attachments()).toEqual(["p2"]);
  });

  test("GC is not called below 1.1 or when the network forbids it", async () => {
    cni().plugin("a");
    cni().configure({ plugins: [{ type: "a" }] });
    await cni()
      .open()
      .gc(() => false);
    cni().configure({ cniVersion: "1.1.0", disableGC: true, plugins: [{ type: "a" }] });
    await cni()
      .open()
      .gc(() => false);
    expect(cni().verbs()).toEqual([]);
  });

  test("a stale pod that cannot be detached does not keep the others", async () => {
    cni().plugin("a", { DEL: '[ "$CNI_CONTAINERID" = p2 ]' });
    cni().configure({ plugins: [{ type: "a" }] });
    const network = cni().open();
    for (const id of ["p1", "p2"]) await network.add(attachment({ id }));
    await network.gc(() => false);
    expect(await network.attachments()).toEqual(["p1"]);
  });

  test("a pod that comes while the plugins are asked for their versions keeps its network", async () => {
    const file = (name: string) => join(cni().directory, name);
    writeFileSync(file("held"), "");
    const wait = `if [ -e ${file("held")} ]; then
      : >${file("entered")}; until [ -e ${file("go")} ]; do sleep 0.01; done
    fi`;
    cni().plugin("a", { VERSION: `${wait}\necho '${VERSIONS}'` });
    cni().configure({ plugins: [{ type: "a" }] });
    const pods = new Set<string>();
    const collecting = cni()
      .open()
      .gc((id) => pods.has(id));
    while (!existsSync(file("entered"))) await Bun.sleep(5);
    rmSync(file("held"));
    pods.add("p1");
    const network = cni().open();
    await network.add(attachment());
    writeFileSync(file("go"), "");
    await collecting;
    expect(cni().verbs()).toEqual(["a ADD"]);
    expect(await network.attachments()).toEqual(["p1"]);
  });

  test("runs alone: it waits for running operations and later ones wait for it", async () => {
    cni().plugin("a", { ADD: `sleep 0.2; echo '${RESULT}'`, GC: "sleep 0.2" });
    cni().configure({ cniVersion: "1.1.0", plugins: [{ type: "a" }] });
    const network = cni().open();
    const first = network.add(attachment());
    const collecting = network.gc(() => true);
    await first;
    await Bun.sleep(50);
    await Promise.all([collecting, network.add(attachment({ id: "p2" }))]);
    expect(cni().verbs()).toEqual(["a ADD", "a GC", "a ADD"]);
  });
});
