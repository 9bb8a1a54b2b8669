/** What a pod's scope under systemd costs against a cgroup made by Crib itself. Measured, not judged. */
import { expect, test } from "bun:test";
import { runPod } from "./cri.ts";
import { Crib, cleaned } from "./node.ts";

const rounds = 4;
const podsPerRound = 10;

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

/** Milliseconds of RunPodSandbox for each of some pods: host network, so that no CNI plugin takes part. */
async function measure(cgroup_driver: "systemd" | "cgroupfs"): Promise<number[]> {
  const crib = await Crib.start({ runtime: { cgroup_driver } });
  const linux = { securityContext: { namespaceOptions: { network: 2, pid: 1 } } };
  const times: number[] = [];
  // The first one loads and warms up.
  for (let pod = 0; pod <= podsPerRound; pod += 1) {
    const started = performance.now();
    await runPod(crib, { linux });
    if (pod > 0) times.push(performance.now() - started);
  }
  await crib.removeAll();
  return times;
}

test("a pod's scope", async () => {
  const times = { systemd: [] as number[], cgroupfs: [] as number[] };
  for (let round = 0; round < rounds; round += 1) {
    times.systemd.push(...(await measure("systemd")));
    times.cgroupfs.push(...(await measure("cgroupfs")));
  }
  const [systemd, cgroupfs] = [median(times.systemd), median(times.cgroupfs)];
  console.log(
    `note: a pod with systemd ${systemd.toFixed(0)} ms, with cgroupfs ${cgroupfs.toFixed(0)} ms: ` +
      `ratio ${(systemd / cgroupfs).toFixed(2)} (medians of ${rounds * podsPerRound} each)`,
  );
  expect([...times.systemd, ...times.cgroupfs]).toHaveLength(2 * rounds * podsPerRound);
  expect(await cleaned()).toEqual([]);
}, 900_000);
