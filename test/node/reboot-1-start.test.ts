/** Pods that the machine's reboots find running. */
import { test } from "bun:test";
import { Kubelet, stay } from "./kubelet.ts";
import { nginx, sh } from "./node.ts";
import { noteDown, pods } from "./reboot.ts";

test("pods run, and crib and the kubelet start at boot", async () => {
  const kubelet = await Kubelet.start();
  kubelet.apply("one", `echo first >/file; ${stay}`);
  kubelet.apply("two", {
    shareProcessNamespace: true,
    containers: [{ name: "main", image: nginx }],
  });
  kubelet.apply("web", {
    containers: [{ name: "main", image: nginx, ports: [{ containerPort: 80, hostPort: 8081 }] }],
  });
  for (const name of pods) await kubelet.ready(name);
  sh("systemctl", "enable", "crib", "kubelet");
  await noteDown(kubelet);
  sh("sync");
});
