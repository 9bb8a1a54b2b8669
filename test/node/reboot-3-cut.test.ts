/** After the power went in the moment in which the pull of an image had been answered. */
import { expect, test } from "bun:test";
import { Kubelet } from "./kubelet.ts";
import { cleaned, layered, sh, until } from "./node.ts";
import { declareAfterBoot } from "./reboot.ts";

declareAfterBoot({ pulled: [layered] });

const journal = () => sh("journalctl", "-b", "-u", "crib", "-o", "cat").split("\n");

test("Crib noticed the cut, checked all layers and found none damaged", async () => {
  const line = await until("the end of the check", () =>
    journal().find((it) => it.includes('"layers checked"')),
  );
  const { checkedLayers, damaged } = JSON.parse(line);
  expect(damaged).toEqual([]);
  // Two of busybox and nginx, three of the image that came last.
  expect(checkedLayers).toBeGreaterThanOrEqual(5);
});

test("every lease was on disk before its pod ran: the cut has emptied none", () => {
  expect(journal().filter((it) => it.includes("power cut has emptied"))).toEqual([]);
});

test("nothing is left when all pods are gone", async () => {
  const kubelet = await Kubelet.found();
  await kubelet.stop();
  sh("systemctl", "disable", "crib", "kubelet");
  expect(await cleaned()).toEqual([]);
});
