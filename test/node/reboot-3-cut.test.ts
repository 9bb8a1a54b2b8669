/** After the power went in the midst of it. */
import { expect, test } from "bun:test";
import { Kubelet } from "./kubelet.ts";
import { cleaned, sh } from "./node.ts";
import { declareAfterBoot } from "./reboot.ts";

declareAfterBoot();

test("nothing is left when all pods are gone", async () => {
  const kubelet = await Kubelet.found();
  await kubelet.stop();
  sh("systemctl", "disable", "crib", "kubelet");
  expect(await cleaned()).toEqual([]);
});
