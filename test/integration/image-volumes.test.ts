import { afterAll, beforeAll, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type MadeContainer,
  type MadePod,
  refusal,
  startNode,
  type TestNode,
} from "../fixtures/pods.ts";
import { type Pushed, pushImage } from "../fixtures/registry.ts";
import { until } from "../fixtures/until.ts";

let node: TestNode;
let pod: MadePod;
let volume: Pushed;
beforeAll(async () => {
  node = await startNode();
  volume = await pushImage(node.registry, "volume:1", {
    layers: [
      [
        { name: "data/", type: "5" },
        { name: "data/old", data: "old" },
        { name: "data/gone", data: "gone" },
      ],
      [
        { name: "./", type: "5", mode: 0o751 },
        { name: "data/new", data: "new" },
        { name: "data/.wh.gone" },
        { name: "data/inside", type: "2", linkName: "../data" },
        { name: "outside", type: "2", linkName: "/../../../../../../../../etc" },
        { name: "fifo", type: "6" },
        { name: "run", data: "#!/bin/sh\necho ran\n", mode: 0o755 },
      ],
    ],
  });
  await node.imageService.pullImage({ image: { image: volume.name } });
  pod = await node.pod();
}, 60_000);
afterAll(() => node.stop());

const containerPath = "/mnt/image";
const image = () => ({ image: volume.id, userSpecifiedImage: volume.name });
const mountOf = (change: object = {}) => ({
  mounts: [{ containerPath, image: image(), readonly: true, ...change }],
});
const volumesOf = ({ id }: MadeContainer) => join(node.directory, "root/containers", id, "volumes");
const mountsBelow = (directory: string) =>
  readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => line.includes(` ${directory}/`));
const layerCount = () => readdirSync(join(node.directory, "root/layers")).length;

test("a container sees the files of all layers of the image, read-only, and may run them", async () => {
  const container = await node.run(pod, mountOf());
  expect(await node.sh(container, `ls ${containerPath}/data`)).toBe("inside\nnew\nold\n");
  expect(await node.sh(container, `${containerPath}/run`)).toBe("ran\n");
  expect(await node.sh(container, `stat -c %a ${containerPath}`)).toBe("751\n");
  expect(await node.sh(container, `touch ${containerPath}/x 2>&1 || true`)).toContain("Read-only");
  const line = await node.sh(container, `grep ' ${containerPath} ' /proc/self/mountinfo`);
  expect(line).toMatch(/ ro,nosuid,nodev/);
  const status = await node.status(container);
  expect(status.mounts).toMatchObject([{ containerPath, image: { image: volume.id } }]);
  await node.runtime.removeContainer({ containerId: container.id });
  expect(mountsBelow(volumesOf(container))).toEqual([]);
  expect(existsSync(volumesOf(container))).toBe(false);
});

test("options of the mount take effect, and one container has several volumes", async () => {
  const { mounts } = mountOf({ mountOptions: ["noexec"] });
  const second = { ...mounts[0], containerPath: "/mnt/second", mountOptions: [] };
  const container = await node.run(pod, { mounts: [...mounts, second] });
  const denied = await node.sh(container, `${containerPath}/run 2>&1 || true`);
  expect(denied).toContain("Permission denied");
  expect(await node.sh(container, "/mnt/second/run")).toBe("ran\n");
  await node.runtime.removeContainer({ containerId: container.id });
});

test.each([
  ["a directory", "data", "ls", "inside\nnew\nold\n"],
  ["a directory by a symlink of the image", "data/inside/.", "ls", "inside\nnew\nold\n"],
  ["a file", "data/new", "cat", "new"],
])("a sub path may be %s", async (_, imageSubPath, command, output) => {
  const container = await node.run(pod, mountOf({ imageSubPath }));
  expect(await node.sh(container, `${command} ${containerPath}`)).toBe(output);
  await node.runtime.removeContainer({ containerId: container.id });
});

test.each<[string, object, string, string]>([
  [
    "an image that is not there",
    { image: { image: "nope:1" } },
    "NotFound",
    "ImageVolumeMountFailed: mounts[0].image",
  ],
  ["an image without a name", { image: { image: "" } }, "InvalidArgument", "mounts[0].image.image"],
  [
    "a path that is not in the image",
    { imageSubPath: "data/none" },
    "FailedPrecondition",
    "ImageVolumeMountFailed",
  ],
  [
    "a path that a whiteout took away",
    { imageSubPath: "data/gone" },
    "FailedPrecondition",
    "data/gone",
  ],
  [
    "a path that leads to the host's /etc",
    { imageSubPath: "outside" },
    "FailedPrecondition",
    "outside",
  ],
  [
    "a path to a FIFO",
    { imageSubPath: "fifo" },
    "FailedPrecondition",
    "neither a directory nor a file",
  ],
  ["a path that climbs", { imageSubPath: "../x" }, "InvalidArgument", 'without ".."'],
  ["an absolute path", { imageSubPath: "/data" }, "InvalidArgument", "must be relative"],
  ["a wish to write", { readonly: false }, "InvalidArgument", "mounts[0].readonly"],
  ["propagation", { propagation: 1 }, "InvalidArgument", "mounts[0].propagation"],
  ["a host path too", { hostPath: "/tmp" }, "InvalidArgument", "mounts[0].host_path"],
  [
    "mapped ids, without user namespaces",
    { uidMappings: [{ containerId: 0, hostId: 1000, length: 10 }] },
    "Unimplemented",
    "uidMappings",
  ],
])("%s is refused, and nothing is left", async (_, change, code, message) => {
  const before = mountsBelow(node.directory);
  const error = await refusal(node.create(pod, mountOf(change)));
  expect(error).toMatchObject({ code });
  expect(error.message).toContain(message);
  expect(mountsBelow(node.directory)).toEqual(before);
  expect(readdirSync(join(node.directory, "root/containers"))).toEqual([]);
});

test("the policy of the pod's namespace also holds for images that are volumes", async () => {
  const directory = join(node.directory, "policies");
  mkdirSync(directory, { recursive: true });
  await node.restart({ "image.policy_dir": directory });
  const docker = { [`${node.registry.host}/volume`]: [{ type: "reject" }] };
  const text = { default: [{ type: "insecureAcceptAnything" }], transports: { docker } };
  writeFileSync(join(directory, "default.json"), JSON.stringify(text));
  const other = await node.pod({ metadata: { name: "p", uid: "p", namespace: "default" } });
  try {
    const error = await refusal(node.create(other, mountOf()));
    expect(error.message).toContain("SignatureValidationFailed");
  } finally {
    rmSync(join(directory, "default.json"));
    await node.remove(other);
  }
});

test("the layers of a volume stay while a container uses them, also across a restart of the daemon", async () => {
  const other = await pushImage(node.registry, "removed:1", {
    layers: [[{ name: "f", data: "kept" }]],
  });
  await node.imageService.pullImage({ image: { image: other.name } });
  const before = layerCount();
  const container = await node.run(pod, mountOf({ image: { image: other.id } }));
  const pruned = JSON.parse(
    execFileSync("dist/crib", [
      "images",
      "prune",
      "--json",
      "--socket",
      node.crib.socket,
    ]).toString(),
  );
  expect(JSON.stringify(pruned)).not.toContain(other.id);
  await node.imageService.removeImage({ image: { image: other.id } });
  expect(layerCount()).toBe(before - 2); // Those of volume:1, which nothing uses now.
  await node.restart();
  expect(layerCount()).toBe(before - 2);
  expect(await node.sh(container, `cat ${containerPath}/f`)).toBe("kept");
  await node.runtime.removeContainer({ containerId: container.id });
  expect(layerCount()).toBe(before - 3);
  expect(mountsBelow(volumesOf(container))).toEqual([]);
  await node.imageService.pullImage({ image: { image: volume.name } });
});

test("a volume counts once in ImageFsInfo, and not as what a container has written", async () => {
  const usage = async () => {
    const { imageFilesystems, containerFilesystems } = await node.imageService.imageFsInfo({});
    return [imageFilesystems[0]?.usedBytes?.value, containerFilesystems[0]?.usedBytes?.value];
  };
  // As large, but for the image: a mount needs a directory to be mounted on.
  const plain = await node.run(pod, { mounts: [{ containerPath, hostPath: "/tmp" }] });
  const [images, written] = await usage();
  await node.runtime.removeContainer({ containerId: plain.id });
  const container = await node.run(pod, mountOf());
  expect(await usage()).toEqual([images, written]);
  await node.runtime.removeContainer({ containerId: container.id });
});

test("a daemon that dies while it mounts, or a reboot, leaves no mount and holds no layer", async () => {
  node.close("create");
  const lost = node.create(pod, mountOf()).catch(() => undefined);
  await node.reached("create");
  await node.kill();
  await lost;
  node.open("create");
  await node.start();
  const directory = join(node.directory, "root/containers");
  await until("the half-made container to go", () => readdirSync(directory).length === 0);
  expect(mountsBelow(directory)).toEqual([]);
  const container = await node.run(pod, mountOf());
  // As after a power cut: the mounts are gone, the directories are not.
  await node.runtime.stopContainer({ containerId: container.id, timeout: 0n });
  await until("the volume to be unmounted", () => mountsBelow(volumesOf(container)).length === 0);
  expect(existsSync(volumesOf(container))).toBe(true);
  await node.restart();
  await node.runtime.removeContainer({ containerId: container.id });
  expect(readdirSync(directory)).toEqual([]);
  await node.imageService.removeImage({ image: { image: volume.id } });
  expect(layerCount()).toBe(1);
});

test("what needs an image that has lost a layer's directory fails and says so, until it is pulled again", async () => {
  const spec = { image: { image: volume.name } };
  await node.imageService.pullImage(spec);
  const { image: before, info } = await node.imageService.imageStatus({ ...spec, verbose: true });
  const { layers } = JSON.parse(info.info ?? "") as { layers: string[] };
  const directories = () => {
    const all = join(node.directory, "root/layers");
    return readdirSync(all).map((name) => join(all, name));
  };
  const lost = directories().find((path) => existsSync(join(path, "data/old"))) ?? "";
  rmSync(lost, { recursive: true });
  const why = `the directory of its layer ${layers[0]} is missing`;
  for (const [config, what] of [
    [mountOf(), `ImageVolumeMountFailed: mounts[0].image: "${volume.id}"`],
    [spec, `image "${volume.name}"`],
  ] as const) {
    const { code, message } = await refusal(node.create(pod, config));
    expect(code).toBe("DataLoss");
    expect(message).toContain(`${what}: ${why}`);
  }
  // For the kubelet it is not there: it pulls. It is listed, and can be removed.
  expect((await node.imageService.imageStatus(spec)).image).toBeUndefined();
  const { images } = await node.imageService.listImages({ filter: spec });
  expect(images[0]).toEqual(before);
  await node.imageService.pullImage(spec);
  expect((await node.imageService.imageStatus(spec)).image).toEqual(before);
  const container = await node.run(pod, mountOf());
  expect(await node.sh(container, `cat ${containerPath}/data/old`)).toBe("old");
  await node.runtime.removeContainer({ containerId: container.id });
});
