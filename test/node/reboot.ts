/** In the virtual machine: what is written down before a reboot, and held against what is there after. */

import { expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { Kubelet } from "./kubelet.ts";
import { expectMetrics } from "./metrics.ts";
import { busybox, cribMounts, entries, leases, podCgroups, sh } from "./node.ts";

/** Static pods that run over all reboots. */
export const pods = ["one", "two", "web"];

const notes = "/var/tmp/before-reboot.json";

interface Notes {
  sandboxes: string[];
  containers: string[];
  images: string[];
}

async function look(kubelet: Kubelet): Promise<Notes> {
  const { items } = await kubelet.crib.runtime.listPodSandbox({ filter: { state: { state: 0 } } });
  const { containers } = await kubelet.crib.runtime.listContainers({
    filter: { state: { state: 1 } },
  });
  const { images } = await kubelet.crib.image.listImages({});
  return {
    sandboxes: items.map((it) => it.id).sort(),
    containers: containers.map((it) => it.id).sort(),
    images: images.map((it) => it.id).sort(),
  };
}

export async function noteDown(kubelet: Kubelet): Promise<void> {
  writeFileSync(notes, JSON.stringify(await look(kubelet)), { flush: true });
}

/**
 * Declares what must hold after a boot.
 *
 * @param expected.pulled images that came after the last look.
 */
export function declareAfterBoot({ pulled = [] }: { pulled?: string[] } = {}): void {
  let kubelet: Kubelet;
  const before: Notes = JSON.parse(readFileSync(notes, "utf8"));

  test("the same static pods run again", async () => {
    kubelet = await Kubelet.found();
    for (const name of pods) await kubelet.ready(name, 280_000);
  });

  test("in new sandboxes and containers; those of before are told as gone", async () => {
    const now = await look(kubelet);
    expect(now.sandboxes.filter((id) => before.sandboxes.includes(id))).toEqual([]);
    expect(now.containers.filter((id) => before.containers.includes(id))).toEqual([]);
    const { items } = await kubelet.crib.runtime.listPodSandbox({});
    for (const it of items.filter(({ id }) => before.sandboxes.includes(id)))
      expect(it.state).toBe(1);
    const { containers } = await kubelet.crib.runtime.listContainers({});
    for (const it of containers.filter(({ id }) => before.containers.includes(id))) {
      expect(it.state).toBe(2);
    }
  });

  test("only the pods of now hold addresses and cgroups", async () => {
    const statuses = await Promise.all(pods.map((name) => kubelet.status(name)));
    expect(leases().sort()).toEqual(statuses.map((it) => it?.podIP ?? "").sort());
    const now = await look(kubelet);
    const ids = podCgroups().map((it) => it.replace(/^.*crio-/, "").replace(/\.scope$/, ""));
    expect(ids.sort()).toEqual([...now.sandboxes, ...now.containers].sort());
  });

  test("the kubelet's metrics show the pods of now", async () => {
    await expectMetrics(kubelet, { name: "one", image: busybox, writtenBytes: 0 });
  });

  test("directories and mounts are of the pods and containers of now", async () => {
    const now = await look(kubelet);
    expect(entries("/run/crib/pods").sort()).toEqual(now.sandboxes);
    expect(entries("/run/crib/containers").sort()).toEqual(now.containers);
    const { containers } = await kubelet.crib.runtime.listContainers({});
    const known = containers.map((it) => it.id);
    const unknown = entries("/var/lib/crib/containers").filter((id) => !known.includes(id));
    expect(unknown).toEqual([]);
    const live = [...now.sandboxes, ...now.containers];
    expect(cribMounts().filter((path) => !live.some((id) => path.includes(id)))).toEqual([]);
  });

  test("every image is there, whole to the last file", async () => {
    const { images } = await kubelet.crib.image.listImages({});
    const arrived = images.filter((it) => it.repoTags.some((tag) => pulled.includes(tag)));
    expect(arrived.flatMap((it) => it.repoTags)).toEqual(pulled);
    const others = images.filter((it) => !arrived.includes(it)).map((it) => it.id);
    expect(others.sort()).toEqual(before.images);
    const checked = sh("crib", "images", "check", "--no-repair", "--json");
    expect(JSON.parse(checked).damaged).toEqual([]);
    await noteDown(kubelet);
  });
}
