import { expect, test } from "bun:test";
import { refuseLong } from "../../src/container/config-size.ts";
import { containerRpcs } from "../../src/cri/containers.ts";
import type { CriContext } from "../../src/cri/context.ts";
import { imageRpcs } from "../../src/cri/images.ts";
import { toJson } from "../../src/cri/info.ts";
import { podSandboxRpcs } from "../../src/cri/pod-sandboxes.ts";
import { containerStatsRpcs } from "../../src/cri/stats.ts";
import { ContainerConfig } from "../../src/gen/runtime/v1/container_config_pb.ts";
import { ListContainersResponse } from "../../src/gen/runtime/v1/container_pb.ts";
import { ImageStatusResponse, ListImagesResponse } from "../../src/gen/runtime/v1/image_pb.ts";
import { PodSandboxConfig } from "../../src/gen/runtime/v1/pod_sandbox_config_pb.ts";
import { ListPodSandboxResponse } from "../../src/gen/runtime/v1/pod_sandbox_pb.ts";
import { ListContainerStatsResponse } from "../../src/gen/runtime/v1/stats_pb.ts";

const KUBELET_LIMIT = 16 * 1024 * 1024;
const ALL = { filter: undefined };

/** Kubernetes allows 256 KiB of them, as few long or as many short ones. */
const LONG = { note: "é".repeat(120_000) };
const MANY = Object.fromEntries(
  Array.from({ length: 20_000 }, (_, index) => [`io.kubernetes.pod.n${index}`, "x"]),
);
const OWN_LABELS = {
  "io.kubernetes.container.name": "c",
  "io.kubernetes.pod.name": "p".repeat(253),
  "io.kubernetes.pod.uid": "uid",
};
const HASH = {
  "io.kubernetes.container.hash": "af15",
  "io.kubernetes.container.ports": "x".repeat(9999),
};

function context(core: object): CriContext {
  const stats = {
    retain() {},
    read: async (targets: Array<{ attributes: object }>) =>
      targets.map(({ attributes }) => ({ attributes, memory: { timestamp: 1n } })),
  };
  return { core, stats } as unknown as CriContext;
}

/** Containers and pods whose clients wrote as much as they may. */
function hostile(count: number, small = 0) {
  const config = (index: number) => {
    const metadata = { name: `c${index}` };
    if (index < small)
      return { metadata, labels: OWN_LABELS, annotations: { ...HASH, own: "kept" } };
    const image = { image: "sha256:1", annotations: LONG, userSpecifiedImage: "u".repeat(1000) };
    // Before the kubelet's own.
    const labels = { ...(index % 2 === 0 ? LONG : MANY), ...OWN_LABELS };
    return { metadata, image, labels, annotations: { ...HASH, ...LONG } };
  };
  const long = [0, 1].map((index) => ContainerConfig.fromPartial(config(small + index)));
  const made = Array.from({ length: count }, (_, index) => ({
    id: `${index}`.padStart(64, "0"),
    podId: "p",
    phase: "running",
    imageId: "sha256:1",
    createdAtNs: 1n,
    config: index < small ? ContainerConfig.fromPartial(config(index)) : long[index % 2],
    ips: [],
  }));
  const map = new Map(made.map((one) => [one.id, one]));
  return context({
    store: { containers: map, pods: map },
    storage: { diff: () => "/diff" },
  });
}

test.each([1, 70, 1000])(
  "lists of %i hostile pods and containers fit into the kubelet's 16 MiB, with all entries",
  async (count) => {
    const node = hostile(count);
    const { containers = [] } = await containerRpcs(node).listContainers(ALL);
    const { items = [] } = await podSandboxRpcs(node).listPodSandbox(ALL);
    const { stats = [] } = await containerStatsRpcs(node).listContainerStats(ALL);
    expect([containers, items, stats].map(({ length }) => length)).toEqual([count, count, count]);
    const lengths = [
      ListContainersResponse.encode(ListContainersResponse.fromPartial({ containers })),
      ListPodSandboxResponse.encode(ListPodSandboxResponse.fromPartial({ items })),
      ListContainerStatsResponse.encode(ListContainerStatsResponse.fromPartial({ stats })),
    ].map((writer) => writer.finish().length);
    for (const length of lengths) expect(length).toBeLessThan(KUBELET_LIMIT);
    for (const { labels, annotations } of containers) {
      expect(labels).toMatchObject(OWN_LABELS);
      expect(annotations).toMatchObject({ "io.kubernetes.container.hash": "af15" });
    }
  },
);

test("a short list, and the small entries of a long one, are told in full", () => {
  const { containers = [] } = containerRpcs(hostile(60, 20)).listContainers(ALL);
  for (const [index, { annotations }] of containers.entries()) {
    expect(annotations).toEqual(
      index < 20 ? { ...HASH, own: "kept" } : expect.not.objectContaining(LONG),
    );
  }
  const [only] = containerRpcs(hostile(1)).listContainers(ALL).containers;
  expect(only?.annotations).toEqual({ ...HASH, ...LONG });
});

test("images with as many annotations and names as they may have fit into ListImages and ImageStatus", async () => {
  const names = (count: number) =>
    Array.from({ length: count }, (_, index) => `${"r".repeat(250)}:${index}`);
  const image = {
    repoTags: names(300),
    repoDigests: names(300),
    sizeBytes: 1,
    annotations: LONG,
    user: "0",
    layers: [],
    pinned: false,
  };
  const images = Array.from({ length: 200 }, (_, index) => ({ ...image, id: `${index}` }));
  const many = { ...image, id: "many", repoTags: names(60_000) };
  let readable = true;
  const node = context({
    handlers: { requireKnown() {} },
    images: {
      list: () => images,
      find: () => many,
      isWhole: () => true,
      documents: { isReadable: () => readable, annotations: () => LONG },
    },
  });
  const rpcs = imageRpcs(node);
  const list = rpcs.listImages(ALL);
  expect(list.images).toHaveLength(200);
  const listed = ListImagesResponse.encode(ListImagesResponse.fromPartial(list)).finish();
  expect(listed.length).toBeLessThan(KUBELET_LIMIT);
  const status = await rpcs.imageStatus({ image: { image: "many" }, verbose: false } as never);
  readable = false;
  // What is damaged is not there, so that the kubelet pulls it.
  expect(await rpcs.imageStatus({ image: { image: "many" }, verbose: false } as never)).toEqual({});
  const told = ImageStatusResponse.encode(ImageStatusResponse.fromPartial(status)).finish();
  expect(told.length).toBeLessThan(KUBELET_LIMIT);
});

test("a pod or container may have 512 KiB of labels and annotations, and names of 1024 characters", () => {
  const metadata = { name: "n".repeat(1024) };
  const half = "x".repeat(256 * 1024 - 1);
  const config = { metadata, labels: { a: half }, annotations: { b: half } };
  expect(() => refuseLong(PodSandboxConfig.fromPartial(config))).not.toThrow();
  const refused = (change: object) =>
    expect(() => refuseLong(ContainerConfig.fromPartial({ ...config, ...change })));
  refused({ annotations: { bc: half } }).toThrow(
    "config.labels and config.annotations: 524289 bytes",
  );
  refused({ image: { annotations: { c: "" } } }).toThrow("524289 bytes");
  refused({ metadata: { name: "n".repeat(1025) } }).toThrow("config.metadata.name");
  refused({ image: { userSpecifiedImage: "u".repeat(1025) } }).toThrow("user_specified_image");
});

test("a verbose answer that is too long lacks its largest members, and names them", () => {
  const info = { pid: 1, absent: undefined, config: "x".repeat(50), spec: "y".repeat(40) };
  const text = (limit: number, before: string[] = []) =>
    Buffer.concat(toJson(info, limit, before)).toString();
  const json = (limit: number) => JSON.parse(text(limit));
  expect(text(80, ["labels"])).toEndWith(',"omitted":["labels","config"]}');
  expect(json(1000)).toEqual({ pid: 1, config: info.config, spec: info.spec });
  expect(json(80)).toEqual({ pid: 1, spec: info.spec, omitted: ["config"] });
  expect(json(20)).toMatchObject({
    pid: 1,
    omitted: ["config", "spec"],
  });
});
