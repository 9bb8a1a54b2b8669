/** A kubelet whose configuration names another cgroup driver than Crib's: it follows Crib's. */
import { afterAll, describe, expect, test } from "bun:test";
import { Kubelet, stay } from "./kubelet.ts";
import { cleaned, podCgroups } from "./node.ts";

for (const [crib, kubelet] of [
  ["systemd", "cgroupfs"],
  ["cgroupfs", "systemd"],
] as const) {
  describe(`Crib with ${crib}, a kubelet configured for ${kubelet}`, () => {
    let node: Kubelet;

    afterAll(async () => {
      await node.stop();
    });

    test("pods run, where Crib's driver puts them", async () => {
      node = await Kubelet.start({ cgroupDriver: kubelet }, { runtime: { cgroup_driver: crib } });
      node.apply("driver", stay);
      await node.ready("driver");
      const places = podCgroups().map((it) =>
        it
          .replace(/-pod[0-9a-f_]{32,}/, "-podID")
          .replace(/\/pod[0-9a-f-]{32,}/, "/podID")
          .replace(/crio-[0-9a-f]{64}/, "crio-ID"),
      );
      const place =
        crib === "systemd"
          ? "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podID.slice/crio-ID.scope"
          : "/kubepods/besteffort/podID/crio-ID";
      expect(places).toEqual([place, place]);
    });

    test("nothing is left when the pod is gone", async () => {
      await node.remove("driver");
      await node.stop();
      expect(await cleaned()).toEqual([]);
    });
  });
}
