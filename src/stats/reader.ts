/** Reads containers' statistics when they are asked for: no timer, no process, no state but last samples. */

import { setImmediate as nextTurn } from "node:timers/promises";
import type { DeepPartial } from "../gen/runtime/v1/common_pb.ts";
import type { ContainerAttributes, ContainerStats } from "../gen/runtime/v1/stats_pb.ts";
import type { CgroupHost } from "../linux/cgroup.ts";
import { log } from "../observe/log.ts";
import { type CgroupReading, readCgroupStats } from "./cgroup-stats.ts";
import { toContainerStats } from "./container-stats.ts";
import { CpuRates } from "./cpu-rates.ts";
import { type DiskUsage, DiskUsages, treeMeasure } from "./disk-usage.ts";

/** How long an answer may wait for the first walk of a writable layer. */
const LAYER_WAIT_MS = 500;
/** Questions within this time get the same reading: pollers come in pairs. */
const SAME_READING_NS = 100_000_000n;
/** Kernel files of so many containers are read before other work gets its turn. */
const BATCH = 16;

/** What to read of one container. */
export interface StatsTarget {
  id: string;
  attributes: DeepPartial<ContainerAttributes>;
  /** undefined: it does not run. */
  cgroupPath: string | undefined;
  /** Its overlay upper directory. */
  layerDirectory: string;
}

/** What to measure of one container's writable layer. */
export type LayerTarget = Pick<StatsTarget, "id" | "layerDirectory">;

/** The statistics of containers on this host. */
export class StatsReader {
  readonly #rates = new CpuRates();
  readonly #usages: DiskUsages;
  readonly #readings = new Map<string, CgroupReading>();
  /** The writable layer of each container that was ever asked for. */
  readonly #layers = new Map<string, string>();

  /**
   * @param options `executable`: argv to run Crib again.
   * @param usages is there for tests.
   */
  constructor(
    readonly options: { host: CgroupHost; storageRoot: string; executable: readonly string[] },
    usages = new DiskUsages(treeMeasure(options.executable)),
  ) {
    this.#usages = usages;
  }

  /**
   * The statistics of all targets, in their order. A container that ends meanwhile has no cpu and memory;
   * a writable layer that takes longer than half a second to walk is there from a later call on.
   */
  async read(targets: readonly StatsTarget[]): Promise<ContainerStats[]> {
    const answers: Promise<ContainerStats>[] = [];
    for (const [index, target] of targets.entries()) {
      if (index > 0 && index % BATCH === 0) await nextTurn();
      answers.push(this.#readOne(target));
    }
    return Promise.all(answers);
  }

  /** What the writable layers of all targets take; one that cannot be measured in time counts as empty. */
  async total(targets: readonly LayerTarget[]): Promise<{ bytes: bigint; inodes: bigint }> {
    const usages = await Promise.all(targets.map((target) => this.#layer(target)));
    const sum = (pick: (usage: DiskUsage) => bigint) =>
      usages.reduce((total, usage) => total + (usage === undefined ? 0n : pick(usage)), 0n);
    return { bytes: sum((usage) => usage.bytes), inodes: sum((usage) => usage.inodes) };
  }

  /** Drops what is remembered of containers that are no more. */
  retain(ids: { has(id: string): boolean }): void {
    for (const [id, layerDirectory] of this.#layers) {
      if (ids.has(id)) continue;
      this.#layers.delete(id);
      this.#rates.forget(id);
      this.#readings.delete(id);
      this.#usages.forget(layerDirectory);
    }
  }

  async #readOne(target: StatsTarget): Promise<ContainerStats> {
    const reading = this.#reading(target);
    const cpu = reading?.cpu;
    return toContainerStats({
      attributes: target.attributes,
      reading,
      usageNanoCores:
        cpu && this.#rates.sample(target.id, cpu.usageCoreNanoSeconds, reading.monotonicNs),
      writableLayer: await this.#layer(target),
      storageRoot: this.options.storageRoot,
    });
  }

  #reading({ id, cgroupPath }: StatsTarget): CgroupReading | undefined {
    if (cgroupPath === undefined) return undefined;
    const last = this.#readings.get(id);
    if (last !== undefined && process.hrtime.bigint() - last.monotonicNs < SAME_READING_NS) {
      return last;
    }
    const reading = this.#tryReading(id, cgroupPath);
    if (reading === undefined) this.#readings.delete(id);
    else this.#readings.set(id, reading);
    return reading;
  }

  /** One container that cannot be read must not cost the others their answer. */
  #tryReading(id: string, cgroupPath: string): CgroupReading | undefined {
    try {
      return readCgroupStats(this.options.host, cgroupPath);
    } catch (error) {
      log().warn({ containerId: id, cgroupPath, err: error }, "cannot read a container's cgroup");
      return undefined;
    }
  }

  async #layer({ id, layerDirectory }: LayerTarget): Promise<DiskUsage | undefined> {
    this.#layers.set(id, layerDirectory);
    try {
      return await this.#usages.usage(layerDirectory, LAYER_WAIT_MS);
    } catch (error) {
      log().warn(
        { containerId: id, layerDirectory, err: error },
        "cannot measure a writable layer",
      );
      return undefined;
    }
  }
}
