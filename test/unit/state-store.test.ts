import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ContainerConfig } from "../../src/gen/runtime/v1/container_config_pb.ts";
import { PodSandboxConfig } from "../../src/gen/runtime/v1/pod_sandbox_config_pb.ts";
import { nowNs } from "../../src/state/clock.ts";
import { openDatabase } from "../../src/state/database.ts";
import { findPod, requireContainer, requirePod } from "../../src/state/find.ts";
import { fingerprint } from "../../src/state/fingerprint.ts";
import { keptContainerConfig, keptPodConfig } from "../../src/state/kept-config.ts";
import type { ContainerRecord, PodRecord } from "../../src/state/records.ts";
import { migrations } from "../../src/state/schema.ts";
import { Store } from "../../src/state/store.ts";

let directory: string;
let path: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "crib-store-"));
  path = join(directory, "crib.db");
});

afterEach(() => {
  rmSync(directory, { recursive: true });
});

const podConfig = (id: string) =>
  PodSandboxConfig.fromPartial({
    metadata: { name: id },
    labels: { a: "1" },
    portMappings: [{ hostPort: 80 }],
  });

const containerConfig = (id: string) =>
  ContainerConfig.fromPartial({ metadata: { name: id }, command: ["sh"] });

function add(store: Store, ...records: Array<PodRecord | ContainerRecord>): void {
  for (const record of records) {
    if ("podId" in record) store.addContainer(record, containerConfig(record.id));
    else store.addPod(record, podConfig(record.id));
  }
}

function pod(id: string, changes: Partial<PodRecord> = {}): PodRecord {
  return {
    id,
    config: keptPodConfig(podConfig(id)),
    handler: "runc",
    createdAtNs: 1_700_000_000_123_456_789n,
    namespaces: { net: "/run/ns", pid: "/run/pid" },
    cgroup: `/crib/${id}`,
    phase: "ready",
    ips: ["10.0.0.1"],
    monitorPid: 5,
    unclaimed: false,
    ...changes,
  };
}

function container(id: string, podId: string): ContainerRecord {
  return {
    id,
    podId,
    config: keptContainerConfig(containerConfig(id)),
    imageId: "sha256:1",
    imageRef: "busybox",
    createdAtNs: 1n,
    cgroup: `/crib/${id}`,
    logPath: "/log",
    layers: ["sha256:2"],
    stopSignal: 15,
    phase: "exited",
    user: { uid: 1, gid: 2, supplementalGroups: [3] },
    pid: 9,
    startedAtNs: 2n,
    finishedAtNs: 3n,
    exitCode: 137,
    reason: "OOMKilled",
    message: "m",
    droppedLogBytes: 5n,
    unclaimed: true,
  };
}

test("what is saved is there after a restart, changes and removals too", () => {
  const database = openDatabase(path);
  const store = new Store(database);
  const [one, two] = [pod("p1"), pod("p2")];
  add(store, one, two, container("c1", "p1"), container("c2", "p1"));
  one.phase = "stopped";
  store.savePod(one);
  store.deletePod("p2");
  store.deleteContainer("c2");
  database.close();

  const again = new Store(openDatabase(path));
  expect([...again.pods.values()]).toEqual([pod("p1", { phase: "stopped" })]);
  expect([...again.containers.values()]).toEqual([container("c1", "p1")]);
  expect(again.containersOf("p1").map(({ id }) => id)).toEqual(["c1"]);
  expect(again.damaged).toEqual([]);
  expect(again.podConfig("p1")).toEqual(podConfig("p1"));
  expect(again.containerConfig("c1")).toEqual(containerConfig("c1"));
});

test("what was removed meanwhile does not come back by a late save", () => {
  const store = new Store(openDatabase(path));
  const one = pod("p1");
  add(store, one);
  store.deletePod("p1");
  store.savePod(one);
  expect(store.pods.size).toBe(0);
  expect(new Store(openDatabase(path)).pods.size).toBe(0);
  expect(() => store.podConfig("p1")).toThrow("p1 is no longer there");
});

test("of long labels and annotations only the kubelet's own stay in memory; all can be read", () => {
  const uid = "io.kubernetes.pod.uid";
  const long = { x: "y".repeat(40_000) };
  const config = { ...podConfig("p1"), labels: { [uid]: "u", a: "1" }, annotations: long };
  const store = new Store(openDatabase(path));
  const made = pod("p1", { config: keptPodConfig(config) });
  store.addPod(made, config);
  expect(made.config).toMatchObject({ labels: { [uid]: "u" }, annotations: {} });
  expect(store.podNotes(made)).toMatchObject({ labels: config.labels, annotations: long });

  const image = { ...containerConfig("c1"), labels: { [uid]: "u" } };
  const ofImage = ContainerConfig.fromPartial({ ...image, image: { annotations: long } });
  const kept = { ...container("c1", "p1"), config: keptContainerConfig(ofImage) };
  store.addContainer(kept, ofImage);
  expect(kept.config).toMatchObject({ labels: { [uid]: "u" }, image: { annotations: {} } });
  expect(store.containerNotes(kept).image?.annotations).toEqual(long);
});

/** How many transactions were written to the log since it was begun: a commit's last page says so. */
function commits(): number {
  const wal = readFileSync(`${path}-wal`);
  const pageBytes = wal.readUInt32BE(8);
  const salt = wal.subarray(16, 24);
  let count = 0;
  for (let at = 32; at + 24 + pageBytes <= wal.length; at += 24 + pageBytes) {
    if (!wal.subarray(at + 8, at + 16).equals(salt)) break;
    if (wal.readUInt32BE(at + 4) !== 0) count += 1;
  }
  return count;
}

test("many saved together are one transaction, and all there after a restart", () => {
  const database = openDatabase(path);
  const store = new Store(database);
  const many = Array.from({ length: 40 }, (_, i) => container(`c${i}`, "p1"));
  const of = (id: string) => container(id, "p1");
  const [alone, good, bad] = [of("alone"), of("good"), of("bad")];
  add(store, pod("p1"), ...many, alone, good, bad);
  for (const one of [...many, alone, good, bad]) one.message = "over";
  const before = commits();
  store.saveContainers(many);
  expect(commits()).toBe(before + 1);
  store.saveContainers([alone]);
  store.saveContainers([]);
  expect(commits()).toBe(before + 2);
  database.run(
    "CREATE TRIGGER t BEFORE UPDATE ON containers WHEN NEW.id = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END",
  );
  expect(() => store.saveContainers([good, bad])).toThrow("no");
  database.close();
  const again = new Store(openDatabase(path));
  expect(again.containers.get("c39")).toEqual({ ...container("c39", "p1"), message: "over" });
  const over = [...again.containers.values()].filter(({ message }) => message === "over");
  expect(over.map(({ id }) => id).sort()).toEqual([...many.map(({ id }) => id), "alone"].sort());
});

test("a damaged row is told and left alone, with what depends on it", () => {
  const database = openDatabase(path);
  const store = new Store(database);
  add(store, ...["p1", "p2", "p3", "p4"].map((id) => pod(id)));
  add(store, container("c1", "p1"), container("c2", "p1"), container("c3", "p2"));
  database.run("UPDATE containers SET record = 'junk' WHERE id = 'c1'");
  database.run(`UPDATE pods SET record = '{"phase":"ready"}' WHERE id = 'p2'`);
  database.run("UPDATE pods SET config = x'ffff' WHERE id = 'p3'");
  const again = new Store(database);
  expect(again.damaged.toSorted()).toEqual([
    "containers/c1",
    "containers/c3",
    "pods/p2",
    "pods/p3",
  ]);
  expect([...again.pods.keys()]).toEqual(["p1", "p4"]);
  expect([...again.containers.keys()]).toEqual(["c2"]);
  expect(again.damagedContainersOf("p1")).toEqual(["c1"]);
  again.deleteContainer("c1");
  expect(again.damaged).not.toContain("containers/c1");
  expect(again.damagedContainersOf("p1")).toEqual([]);
});

test("ids are found whole or by an unambiguous prefix; what is being made is not there yet", () => {
  const store = new Store(openDatabase(path));
  add(store, ...["abc1", "abc2", "abd", "ab"].map((id) => pod(id)));
  add(store, pod("new", { phase: "creating" }));
  expect(requirePod(store, "abd").id).toBe("abd");
  expect(requirePod(store, "abc1").id).toBe("abc1");
  // A whole id wins over longer ones that begin with it.
  expect(requirePod(store, "ab").id).toBe("ab");
  expect(() => requirePod(store, "abc")).toThrow('pod sandbox id "abc" matches 2 of them');
  expect(() => requirePod(store, "x")).toThrow('pod sandbox "x" is not there');
  expect(() => requireContainer(store, "")).toThrow("container id is empty");
  expect(findPod(store, "new")).toBeUndefined();
  expect(findPod(store, "ne")).toBeUndefined();
});

test("the database is for its owner only, is at the newest version, and keeps room inside", () => {
  const database = openDatabase(path);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(database.query("PRAGMA user_version").get()).toEqual({ user_version: migrations.length });
  const free = database.query("PRAGMA freelist_count").get() as { freelist_count: number };
  expect(free.freelist_count).toBeGreaterThan(100);
  expect(statSync(`${path}-wal`).size).toBeGreaterThan(400_000);
  const size = () => statSync(path).size + statSync(`${path}-wal`).size;
  const before = size();
  const store = new Store(database);
  const ten = Array.from({ length: 10 }, (_, index) => pod(`p${index}`));
  add(store, ...ten);
  for (let round = 0; round < 30; round += 1) for (const one of ten) store.savePod(one);
  expect(size()).toBe(before);
});

test("a newer database and a file that is none are refused with their path", () => {
  const database = openDatabase(path);
  database.run("PRAGMA user_version = 999");
  database.close();
  expect(() => openDatabase(path)).toThrow(`database ${path}: schema version 999 is newer`);
  writeFileSync(path, "this is no database ".repeat(100));
  expect(() => openDatabase(path)).toThrow(`database ${path}: `);
});

test("equal messages have one fingerprint, whatever the order of their maps on the wire", () => {
  const labels = { a: "1", b: "2", c: "3" };
  const reversed = Object.fromEntries(Object.entries(labels).reverse());
  const [one, two] = [labels, reversed].map((map) =>
    PodSandboxConfig.decode(
      PodSandboxConfig.encode(PodSandboxConfig.fromPartial({ labels: map })).finish(),
    ),
  );
  if (one === undefined || two === undefined) throw new Error("no messages");
  expect(Object.keys(one.labels)).not.toEqual(Object.keys(two.labels));
  const print = fingerprint(one);
  expect(fingerprint(two)).toBe(print);
  const other = PodSandboxConfig.fromPartial({ labels: { ...labels, c: "4" } });
  expect(fingerprint(other)).not.toBe(print);
  const listed = (searches: string[]) =>
    fingerprint(PodSandboxConfig.fromPartial({ dnsConfig: { searches } }));
  expect(listed(["a", "b"])).not.toBe(listed(["b", "a"]));
});

test("the clock always moves on, in nanoseconds", () => {
  const times = Array.from({ length: 1000 }, nowNs);
  expect(times.every((time, index) => index === 0 || time > (times[index - 1] ?? time))).toBe(true);
  const [first = 0n] = times;
  expect(Math.abs(Number(first / 1_000_000n) - Date.now())).toBeLessThan(60_000);
});
