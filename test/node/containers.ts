/** Cases of pods and containers with an OCI runtime and a cgroup driver on cgroup v2. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { callsOfSystemd } from "./bus.ts";
import {
  cgroupOf,
  create,
  exec,
  exited,
  kubeletParent,
  type Pod,
  run,
  runPod,
  statusOf,
} from "./cri.ts";
import { busybox, Crib, cgroupFile, cleaned, sh } from "./node.ts";

const MIB = 1024n * 1024n;
/** The OOM killer's verdict is a race between the kernel, the runtime and the daemon. */
const oomRounds = 8;

export function testContainers(handler: "crun" | "runc", driver: "systemd" | "cgroupfs"): void {
  describe(`${handler} with ${driver}`, () => {
    let crib: Crib;
    let pod: Pod;
    let container: string;
    const uid = `${handler}${driver}`;
    const parent = kubeletParent(driver, uid);
    const suffix = driver === "systemd" ? ".scope" : "";

    beforeAll(async () => {
      crib = await Crib.start({ runtime: { cgroup_driver: driver, default_handler: handler } });
      await crib.image.pullImage({ image: { image: busybox } });
      pod = await runPod(crib, { cgroupParent: parent });
      container = await run(crib, pod, {
        resources: {
          memoryLimitInBytes: 64n * MIB,
          cpuQuota: 50_000n,
          cpuPeriod: 100_000n,
          cpuShares: 512n,
        },
      });
    });

    afterAll(async () => {
      await crib.removeAll();
    });

    async function pidOf(id: string): Promise<string> {
      const { info } = await crib.runtime.containerStatus({ containerId: id, verbose: true });
      return String(JSON.parse(info.info ?? "{}").pid);
    }

    test("the container's processes are in crio-ID below the pod's cgroup", async () => {
      const cgroup = await cgroupOf(await pidOf(container));
      // crun makes one more below a scope.
      expect(cgroup.replace(/\/container$/, "")).toBe(`${parent}/crio-${container}${suffix}`);
    });

    test("the pod's own cgroup holds the monitor", async () => {
      const members = cgroupFile(`${parent}/crio-${pod.id}${suffix}`, "cgroup.procs").split("\n");
      const names = members.map((pid) => readFileSync(`/proc/${pid}/comm`, "utf8").trim());
      expect(names).toEqual([expect.stringMatching(/^crib-monitor/)]);
    });

    if (driver === "systemd") {
      test("both scopes are active units in the pod's slice", () => {
        for (const id of [pod.id, container]) {
          const properties = ["ActiveState", "Slice", "Delegate"].map((it) => `--property=${it}`);
          const shown = sh("systemctl", "show", ...properties, `crio-${id}.scope`);
          expect(shown.trim().split("\n").sort()).toEqual([
            "ActiveState=active",
            "Delegate=yes",
            `Slice=${parent.split("/").at(-1)}`,
          ]);
        }
      });
    }

    test("limits are in the container's cgroup and in its status", async () => {
      const cgroup = `${parent}/crio-${container}${suffix}`;
      expect(cgroupFile(cgroup, "memory.max")).toBe(String(64n * MIB));
      expect(cgroupFile(cgroup, "cpu.max")).toBe("50000 100000");
      expect(Number(cgroupFile(cgroup, "cpu.weight"))).toBeGreaterThan(15);
      expect(Number(cgroupFile(cgroup, "cpu.weight"))).toBeLessThan(65);
      const linux = (await statusOf(crib, container)).resources?.linux;
      expect(linux?.memoryLimitInBytes).toBe(64n * MIB);
      expect(linux?.cpuQuota).toBe(50_000n);
    });

    test("exec runs in the container's cgroup and gives output and exit code", async () => {
      expect(await exec(crib, container, "cat /proc/self/cgroup; id -u")).toBe("0::/\n0");
      const { exitCode, stderr } = await crib.runtime.execSync({
        containerId: container,
        cmd: ["sh", "-c", "echo no >&2; exit 7"],
      });
      expect([exitCode, Buffer.from(stderr).toString()]).toEqual([7, "no\n"]);
    });

    if (driver === "systemd") {
      test("ten execs ask systemd for nothing; a new container does", async () => {
        const tenTimes = async () => {
          for (let round = 0; round < 10; round += 1) await exec(crib, container, "true");
        };
        expect(await callsOfSystemd(tenTimes)).toEqual([]);
        const calls = await callsOfSystemd(() => run(crib, pod));
        expect(calls).toContain("StartTransientUnit");
      });
    }

    test("AppArmor's default profile confines it, also when somebody has unloaded that", async () => {
      const show = "cat /proc/self/attr/current";
      expect(await exec(crib, container, show)).toBe("crib-default (enforce)");
      writeFileSync("/sys/kernel/security/apparmor/.remove", "crib-default");
      const id = await run(crib, pod);
      expect(await exec(crib, id, show)).toBe("crib-default (enforce)");
    });

    test("exec that takes too long is ended", async () => {
      const call = crib.runtime.execSync({
        containerId: container,
        cmd: ["sleep", "77"],
        timeout: 3n,
      });
      await expect(call).rejects.toThrow(/deadline|timed out|timeout/i);
      expect(await exec(crib, container, "ps | grep -c '[s]leep 77' || true")).toBe("0");
    });

    test("stats tell CPU, memory and pressure", async () => {
      const { stats } = await crib.runtime.containerStats({ containerId: container });
      expect(stats?.cpu?.usageCoreNanoSeconds?.value).toBeGreaterThan(0n);
      expect(stats?.memory?.workingSetBytes?.value).toBeGreaterThan(0n);
      expect(stats?.memory?.availableBytes?.value).toBeLessThan(64n * MIB);
      for (const part of [stats?.cpu, stats?.memory, stats?.io]) {
        expect(part?.psi?.Some).toBeDefined();
        expect(part?.psi?.Full).toBeDefined();
      }
    });

    test(`a container over its memory limit ends as OOMKilled, ${oomRounds} times`, async () => {
      const verdicts: string[] = [];
      for (let round = 0; round < oomRounds; round += 1) {
        const id = await run(crib, pod, {
          command: ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=100M count=10"],
          resources: { memoryLimitInBytes: 20n * MIB, memorySwapLimitInBytes: 20n * MIB },
        });
        const { reason, exitCode } = await exited(crib, id);
        verdicts.push(`${reason} ${exitCode}`);
        await crib.runtime.removeContainer({ containerId: id });
      }
      expect(verdicts).toEqual(Array.from({ length: oomRounds }, () => "OOMKilled 137"));
    });

    test("exit codes and logs are told", async () => {
      const id = await run(crib, pod, { command: ["sh", "-c", "echo out; echo err >&2; exit 3"] });
      const status = await exited(crib, id);
      expect([status.exitCode, status.reason]).toEqual([3, "Error"]);
      const lines = readFileSync(status.logPath, "utf8").trim().split("\n");
      expect(lines.map((it) => it.replace(/^\S+ /, "")).sort()).toEqual([
        "stderr F err",
        "stdout F out",
      ]);
    });

    test("stop ends a container by its signal, remove takes its cgroup", async () => {
      const id = await create(crib, pod);
      await crib.runtime.startContainer({ containerId: id });
      await exec(crib, id, "true");
      await crib.runtime.stopContainer({ containerId: id, timeout: 60n });
      expect((await statusOf(crib, id)).exitCode).toBe(0);
      await crib.runtime.removeContainer({ containerId: id });
      expect(existsSync(`/sys/fs/cgroup${parent}/crio-${id}${suffix}`)).toBe(false);
    });

    test("nothing is left when the pod is removed", async () => {
      await crib.removeAll();
      expect(await cleaned()).toEqual([]);
    });
  });
}
