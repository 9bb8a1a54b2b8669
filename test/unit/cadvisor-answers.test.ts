import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import type { InfoContext } from "../../src/cadvisor/container-info.ts";
import { cadvisorHandler } from "../../src/cadvisor/handler.ts";
import { ContainerConfig } from "../../src/gen/runtime/v1/container_config_pb.ts";
import { PodSandboxConfig } from "../../src/gen/runtime/v1/pod_sandbox_config_pb.ts";
import { keptContainerConfig, keptPodConfig } from "../../src/state/kept-config.ts";
import type { ContainerRecord, PodRecord } from "../../src/state/records.ts";

const POD = "a".repeat(64);
const CONTAINER = "b".repeat(64);

function podRecord(): PodRecord {
  return {
    id: POD,
    config: keptPodConfig(
      PodSandboxConfig.fromPartial({
        metadata: { name: "web", namespace: "shop", uid: "u-1", attempt: 2 },
        labels: { app: "web" },
        annotations: { note: "pod's" },
      }),
    ),
    handler: "runc",
    createdAtNs: 1_700_000_000_123_456_789n,
    namespaces: {},
    cgroup: `/x/crio-${POD}`,
    phase: "ready",
    ips: ["10.1.0.5", "fd00::5"],
    monitorPid: 4321,
    unclaimed: false,
  };
}

function containerRecord(): ContainerRecord {
  return {
    id: CONTAINER,
    podId: POD,
    config: keptContainerConfig(
      ContainerConfig.fromPartial({
        metadata: { name: "nginx", attempt: 3 },
        image: { image: "sha256:1234", userSpecifiedImage: "nginx:1.29" },
        annotations: { "io.kubernetes.container.restartCount": "3" },
      }),
    ),
    imageId: "sha256:1234",
    imageRef: "sha256:1234",
    createdAtNs: 1_700_000_001_987_654_321n,
    cgroup: `/x/crio-${CONTAINER}`,
    logPath: "/var/log/pods/x/0.log",
    layers: [],
    stopSignal: 15,
    phase: "running",
    user: { uid: 0, gid: 0, supplementalGroups: [] },
    pid: 777,
    startedAtNs: 0n,
    finishedAtNs: 0n,
    exitCode: 0,
    reason: "",
    message: "",
    droppedLogBytes: 0n,
    unclaimed: false,
  };
}

function face(pod = podRecord(), container = containerRecord(), names = ["docker.io/library/a:1"]) {
  const image = { repoTags: names, repoDigests: ["docker.io/library/a@sha256:00"] };
  const core = {
    store: {
      pods: new Map([[pod.id, pod]]),
      containers: new Map([[container.id, container]]),
    },
    images: {
      find: (id: string) => (id === "sha256:1234" && names.length > 0 ? image : undefined),
    },
    storage: { rootfs: (id: string) => `/root/containers/${id}/merged` },
  } as unknown as InfoContext["core"];
  const handler = cadvisorHandler({ core, storageRoot: "/root", emptyRoot: "/root/none/merged" });
  return (path: string, method = "GET") => handler(new Request(`http://crio${path}`, { method }));
}

/** The types that cAdvisor's Go structure has; a null or a string for a number fails to decode there. */
const goTypes = v.object({
  name: v.string(),
  pid: v.pipe(v.number(), v.integer()),
  image: v.string(),
  created_time: v.pipe(v.number(), v.integer()),
  labels: v.record(v.string(), v.string()),
  annotations: v.record(v.string(), v.string()),
  log_path: v.string(),
  root: v.string(),
  ip_address: v.string(),
  ip_addresses: v.array(v.string()),
});

async function info(response: Response) {
  expect(response.status).toBe(200);
  expect(response.headers.get("content-type")).toBe("application/json");
  return v.parse(goTypes, await response.json());
}

test("GET /info names the overlay driver and one root for images and containers", async () => {
  const response = face()("/info");
  expect(response.status).toBe(200);
  expect(await response.json()).toEqual({
    storage_driver: "overlay",
    storage_root: "/root",
    storage_image: "",
  });
});

describe("a container", () => {
  test("is told with its labels, process, image, log and root", async () => {
    expect(await info(face()(`/containers/${CONTAINER}`))).toEqual({
      name: "k8s_nginx_web_shop_u-1_3",
      pid: 777,
      image: "docker.io/library/a:1",
      created_time: Number(1_700_000_001_987_654_321n),
      labels: {
        "io.kubernetes.container.name": "nginx",
        "io.kubernetes.pod.name": "web",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.uid": "u-1",
      },
      annotations: { "io.kubernetes.container.restartCount": "3" },
      log_path: "/var/log/pods/x/0.log",
      root: `/root/containers/${CONTAINER}/merged`,
      ip_address: "10.1.0.5",
      ip_addresses: ["10.1.0.5", "fd00::5"],
    });
  });

  test("has its time of creation to the nanosecond", async () => {
    const text = await face()(`/containers/${CONTAINER}`).text();
    expect(text).toContain('"created_time":1700000001987654321,');
  });

  test("has the kubelet's own labels where it sent them", async () => {
    const container = containerRecord();
    container.config.labels = { "io.kubernetes.container.name": "sent", more: "yes" };
    const { labels } = await info(face(undefined, container)(`/containers/${CONTAINER}`));
    expect(labels["io.kubernetes.container.name"]).toBe("sent");
    expect(labels.more).toBe("yes");
  });

  test("goes by the image name that its author wrote, else any, else what the client said", async () => {
    const image = async (names: string[]) =>
      (await info(face(undefined, undefined, names)(`/containers/${CONTAINER}`))).image;
    const others = ["docker.io/library/a:1", "docker.io/library/nginx:1.29"];
    expect(await image(others)).toBe("docker.io/library/nginx:1.29");
    expect(await image(["docker.io/library/a:1"])).toBe("docker.io/library/a:1");
    expect(await image([])).toBe("sha256:1234");
  });

  test("is there while it is being made, and has no process then or when it has ended", async () => {
    for (const phase of ["creating", "exited"] as const) {
      const container = { ...containerRecord(), phase };
      expect((await info(face(undefined, container)(`/containers/${CONTAINER}`))).pid).toBe(0);
    }
    const created = { ...containerRecord(), phase: "created" as const };
    expect((await info(face(undefined, created)(`/containers/${CONTAINER}`))).pid).toBe(777);
  });
});

describe("a pod's own cgroup", () => {
  test("is the container POD, whose process is the monitor", async () => {
    expect(await info(face()(`/containers/${POD}`))).toEqual({
      name: "k8s_POD_web_shop_u-1_2",
      pid: 4321,
      image: "crib-monitor",
      created_time: Number(1_700_000_000_123_456_789n),
      labels: {
        app: "web",
        "io.kubernetes.container.name": "POD",
        "io.kubernetes.pod.name": "web",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.uid": "u-1",
      },
      annotations: { note: "pod's" },
      log_path: "",
      root: "/root/none/merged",
      ip_address: "10.1.0.5",
      ip_addresses: ["10.1.0.5", "fd00::5"],
    });
  });

  test("is POD whatever its labels say", async () => {
    const pod = podRecord();
    pod.config.labels = { "io.kubernetes.container.name": "not" };
    const { labels } = await info(face(pod)(`/containers/${POD}`));
    expect(labels["io.kubernetes.container.name"]).toBe("POD");
  });

  test("has no process yet while it is being made, and none when it is stopped", async () => {
    const young = { ...podRecord(), phase: "creating" as const, monitorPid: 0, ips: [] };
    const answer = await info(face(young)(`/containers/${POD}`));
    expect(answer.pid).toBe(0);
    expect(answer.ip_address).toBe("");
    expect(answer.ip_addresses).toEqual([]);
    const stopped = { ...podRecord(), phase: "stopped" as const };
    expect((await info(face(stopped)(`/containers/${POD}`))).pid).toBe(0);
  });
});

describe("refusals", () => {
  test.each([
    "/",
    "/containers/",
    "/containers",
    `/containers/${"c".repeat(64)}`,
    `/containers/${POD.slice(0, 63)}`,
    `/containers/${POD}/`,
    `/containers/${POD.toUpperCase()}`,
    `/containers/${POD}0`,
    `/info/containers/${POD}`,
    "/config",
    "/pause/x",
    "//info",
  ])("GET %s is not found", (path) => {
    expect(face()(path).status).toBe(404);
  });

  test.each(["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])(
    "%s changes nothing",
    (method) => {
      for (const path of ["/info", `/containers/${POD}`, "/"]) {
        const response = face()(path, method);
        expect(response.status).toBe(405);
        expect(response.headers.get("allow")).toBe("GET");
      }
    },
  );

  test("a query is no part of the path", () => {
    expect(face()("/info?x=/containers").status).toBe(200);
  });
});

test("every answer ends its connection, so none is closed under a question", () => {
  for (const [path, method] of [["/info"], [`/containers/${POD}`], ["/x"], ["/info", "POST"]]) {
    expect(face()(path ?? "", method).headers.get("connection")).toBe("close");
  }
});
