/** After the power went in the midst of it. */
import { expect, test } from "bun:test";
import { Kubelet } from "./kubelet.ts";
import { cleaned, sh } from "./node.ts";
import { declareAfterBoot } from "./reboot.ts";

declareAfterBoot();

test("every lease was on disk before its pod ran: the cut has emptied none", () => {
  const journal = sh("journalctl", "-b", "-u", "crib", "-o", "cat").split("\n");
  expect(journal.filter((it) => it.includes("power cut has emptied"))).toEqual([]);
});

test("nothing is left when all pods are gone", async () => {
  const kubelet = await Kubelet.found();
  await kubelet.stop();
  sh("systemctl", "disable", "crib", "kubelet");
  expect(await cleaned()).toEqual([]);
});
