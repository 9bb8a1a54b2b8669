import type { Database, SQLQueryBindings } from "bun:sqlite";
import * as v from "valibot";
import { CribError, messageOf } from "../error.ts";
import { ContainerConfig } from "../gen/runtime/v1/container_config_pb.ts";
import { PodSandboxConfig } from "../gen/runtime/v1/pod_sandbox_config_pb.ts";
import { log } from "../observe/log.ts";
import { databaseError, withoutDisk } from "./database.ts";
import { keptContainerConfig, keptPodConfig } from "./kept-config.ts";
import type { ContainerRecord, PodRecord } from "./records.ts";

const digits = v.pipe(
  v.string(),
  v.regex(/^\d+$/),
  v.transform((text) => BigInt(text)),
);
const path = v.optional(v.string());

const podRow = v.object({
  handler: v.string(),
  createdAtNs: digits,
  namespaces: v.object({ net: path, ipc: path, uts: path, pid: path }),
  cgroup: v.string(),
  phase: v.picklist(["creating", "ready", "stopping", "stopped"]),
  ips: v.array(v.string()),
  monitorPid: v.number(),
  unclaimed: v.boolean(),
});

const containerRow = v.object({
  imageId: v.string(),
  imageRef: v.string(),
  createdAtNs: digits,
  cgroup: v.string(),
  logPath: v.string(),
  layers: v.array(v.string()),
  stopSignal: v.number(),
  phase: v.picklist(["creating", "created", "running", "exited"]),
  user: v.object({ uid: v.number(), gid: v.number(), supplementalGroups: v.array(v.number()) }),
  pid: v.number(),
  startedAtNs: digits,
  finishedAtNs: digits,
  exitCode: v.number(),
  reason: v.string(),
  message: v.string(),
  droppedLogBytes: v.optional(digits, "0"),
  unclaimed: v.boolean(),
});

interface Row extends Record<string, SQLQueryBindings> {
  id: string;
  config: Uint8Array;
  record: string;
}

/** Everything of a record but its id and config, as JSON; bigints become decimal strings. */
function toJson(record: PodRecord | ContainerRecord): string {
  return JSON.stringify(record, (key, value: unknown) =>
    key === "config" || key === "id" || key === "podId"
      ? undefined
      : typeof value === "bigint"
        ? value.toString()
        : value,
  );
}

/**
 * All pods and containers: the truth in memory, written through to SQLite.
 * Reads are plain lookups; a change is made on the record and then `save`d.
 * A row that cannot be read is left alone and reported in `damaged`; it hurts no other.
 */
export class Store {
  readonly pods = new Map<string, PodRecord>();
  readonly containers = new Map<string, ContainerRecord>();
  readonly damaged: string[] = [];
  readonly #database: Database;
  #inTransaction = false;

  constructor(database: Database) {
    this.#database = database;
    this.#loadPods();
    this.#loadContainers();
  }

  /** A pod that is to be made, with the request's whole configuration. */
  addPod(pod: PodRecord, config: PodSandboxConfig): void {
    const row = { id: pod.id, config: PodSandboxConfig.encode(config).finish() };
    this.#write(false, () =>
      this.#database
        .query("INSERT INTO pods (id, config, record) VALUES ($id, $config, $record)")
        .run({ ...row, record: toJson(pod) }),
    );
    this.pods.set(pod.id, pod);
  }

  savePod(pod: PodRecord): void {
    this.#write(pod.phase !== "creating", () =>
      this.#database
        .query("UPDATE pods SET record = $record WHERE id = $id")
        .run({ id: pod.id, record: toJson(pod) }),
    );
  }

  /** A container that is to be made, with the request's whole configuration. */
  addContainer(container: ContainerRecord, config: ContainerConfig): void {
    const { id, podId } = container;
    const row = { id, podId, config: ContainerConfig.encode(config).finish() };
    this.#write(false, () =>
      this.#database
        .query(
          `INSERT INTO containers (id, pod_id, config, record)
           VALUES ($id, $podId, $config, $record)`,
        )
        .run({ ...row, record: toJson(container) }),
    );
    this.containers.set(id, container);
  }

  saveContainer(container: ContainerRecord): void {
    const { id, phase, startedAtNs } = container;
    const durable = phase === "exited" || (phase === "created" && startedAtNs === 0n);
    this.#write(durable, () =>
      this.#database
        .query("UPDATE containers SET record = $record WHERE id = $id")
        .run({ id, record: toJson(container) }),
    );
  }

  /** The whole configuration of a pod that is there. @throws CribError NotFound: it has just gone. */
  podConfig(id: string): PodSandboxConfig {
    return PodSandboxConfig.decode(this.#config("pods", id));
  }

  /** The whole configuration of a container that is there. @throws CribError NotFound: it has just gone. */
  containerConfig(id: string): ContainerConfig {
    return ContainerConfig.decode(this.#config("containers", id));
  }

  /** All labels and annotations of a pod, however long. */
  podNotes({ id, config }: PodRecord): Pick<PodSandboxConfig, "labels" | "annotations"> {
    return config.hasNotes ? config : this.podConfig(id);
  }

  /** The same of a container, and its image's. */
  containerNotes({
    id,
    config,
  }: ContainerRecord): Pick<ContainerConfig, "labels" | "annotations" | "image"> {
    return config.hasNotes ? config : this.containerConfig(id);
  }

  #config(table: "pods" | "containers", id: string): Uint8Array {
    const row = this.#database.query(`SELECT config FROM ${table} WHERE id = $id`).get({ id });
    if (row === null) throw new CribError("NotFound", `${id} is no longer there`);
    return (row as Pick<Row, "config">).config;
  }

  /** Saves several in one transaction: all or none, and one wait for the disk. */
  saveContainers(containers: readonly ContainerRecord[]): void {
    const [only, ...others] = containers;
    if (only === undefined) return;
    if (others.length === 0) {
      this.saveContainer(only);
      return;
    }
    try {
      this.#inTransaction = true;
      this.#database.transaction(() => {
        for (const container of containers) this.saveContainer(container);
      })();
    } catch (error) {
      throw databaseError(error);
    } finally {
      this.#inTransaction = false;
    }
  }

  deletePod(id: string): void {
    this.#write(false, () => this.#database.query("DELETE FROM pods WHERE id = $id").run({ id }));
    this.pods.delete(id);
  }

  deleteContainer(id: string): void {
    this.#write(false, () =>
      this.#database.query("DELETE FROM containers WHERE id = $id").run({ id }),
    );
    this.containers.delete(id);
    const damaged = this.damaged.indexOf(`containers/${id}`);
    if (damaged >= 0) this.damaged.splice(damaged, 1);
  }

  /**
   * Every write outlives the daemon's own end; a durable one also a power cut (it waits for the disk).
   * A power cut ends what was being made and what ran, so it need not be told of them: start-up clears
   * away what has no row, and calls dead what has one.
   */
  #write(durable: boolean, statement: () => void): void {
    // In a transaction it is the end of that which waits.
    const waits = durable || this.#inTransaction;
    try {
      if (waits) statement();
      else withoutDisk(this.#database, statement);
    } catch (error) {
      throw databaseError(error);
    }
  }

  /** Ids of a pod's containers whose rows cannot be read. */
  damagedContainersOf(podId: string): string[] {
    if (this.damaged.length === 0) return [];
    const rows = this.#database
      .query("SELECT id FROM containers WHERE pod_id = $podId")
      .all({ podId }) as Array<{ id: string }>;
    return rows.map(({ id }) => id).filter((id) => !this.containers.has(id));
  }

  containersOf(podId: string): ContainerRecord[] {
    return [...this.containers.values()].filter((container) => container.podId === podId);
  }

  #load(table: "pods" | "containers", read: (row: Row) => void): void {
    // One after the other: all configurations at once may be hundreds of megabytes.
    for (const row of this.#database.query<Row, []>(`SELECT * FROM ${table}`).iterate()) {
      try {
        read(row);
      } catch (error) {
        this.damaged.push(`${table}/${row.id}`);
        log().error({ table, id: row.id, error: messageOf(error) }, "a damaged row is left alone");
      }
    }
  }

  #loadPods(): void {
    this.#load("pods", (row) => {
      const config = keptPodConfig(PodSandboxConfig.decode(row.config));
      this.pods.set(row.id, { id: row.id, config, ...v.parse(podRow, JSON.parse(row.record)) });
    });
  }

  #loadContainers(): void {
    this.#load("containers", (row) => {
      const config = keptContainerConfig(ContainerConfig.decode(row.config));
      const podId = String(row.pod_id);
      if (!this.pods.has(podId)) throw new Error(`its pod ${podId} is not there`);
      const rest = v.parse(containerRow, JSON.parse(row.record));
      this.containers.set(row.id, { id: row.id, podId, config, ...rest });
    });
  }
}
