/** Pods and containers with each OCI runtime and each cgroup driver on cgroup v2, but not all together. */
import { expect, test } from "bun:test";
import { testContainers } from "./containers.ts";
import { Crib } from "./node.ts";

test("without any setting crun is the default handler and systemd the cgroup driver", async () => {
  const crib = await Crib.start();
  const { info } = await crib.runtime.status({ verbose: true });
  const { defaultHandler, cgroups, handlers } = JSON.parse(info.info ?? "{}");
  expect({ defaultHandler, cgroups }).toEqual({
    defaultHandler: "crun",
    cgroups: { version: 2, driver: "systemd" },
  });
  expect(handlers.map((it: { problem: string }) => it.problem)).toEqual(["", ""]);
  const { linux } = await crib.runtime.runtimeConfig({});
  expect(linux?.cgroupDriver).toBe(0);
});

testContainers("crun", "systemd");
testContainers("runc", "cgroupfs");
