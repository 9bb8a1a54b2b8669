/** The whole spec: what the parts do together. */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildDevices } from "../../src/container/spec/devices.ts";
import { buildSpec } from "../../src/container/spec/index.ts";
import { Device } from "../../src/gen/runtime/v1/container_config_pb.ts";
import { NamespaceMode } from "../../src/gen/runtime/v1/security_pb.ts";
import { removeTree } from "../../src/storage/remove-tree.ts";
import { ableHost, specInput } from "../fixtures/spec-input.ts";

const rootfs = mkdtempSync(join(tmpdir(), "crib-spec-build-"));
afterAll(() => removeTree(rootfs));

test("a plain container needs no warning, and its spec is plain JSON", async () => {
  const { spec, user, warnings } = await buildSpec(specInput(rootfs));
  expect(warnings).toEqual([]);
  expect(user).toEqual({ uid: 0, gid: 0, supplementalGroups: [0] });
  expect(spec).toMatchObject({
    ociVersion: "1.0.2",
    process: {
      terminal: false,
      args: ["/bin/sh"],
      cwd: "/",
      noNewPrivileges: false,
      oomScoreAdj: 0,
    },
    root: { path: rootfs, readonly: false },
    linux: {
      cgroupsPath: "/kubepods/pod1/crio-c",
      devices: [],
      resources: { devices: [{ allow: false, access: "rwm" }] },
      maskedPaths: [],
    },
  });
  expect(spec.linux.seccomp).toBeUndefined();
  expect(JSON.parse(JSON.stringify(spec)).linux.namespaces).toContainEqual({ type: "cgroup" });
});

test("a privileged container has no restriction and the host's cgroup namespace", async () => {
  const security = { privileged: true, seccomp: {}, maskedPaths: ["/proc/kcore"] };
  const input = specInput(
    rootfs,
    { linux: { securityContext: security } },
    { pod: { privileged: true } },
  );
  const { spec } = await buildSpec(input);
  expect(spec.linux.seccomp).toBeUndefined();
  expect(spec.linux.maskedPaths).toEqual([]);
  expect(spec.linux.namespaces.map(({ type }) => type)).not.toContain("cgroup");
  expect(spec.linux.resources.devices[0]).toEqual({ allow: true, access: "rwm" });
  expect(spec.linux.devices.map(({ path }) => path)).toContain("/dev/null");
  expect(spec.process.capabilities.bounding).toHaveLength(41);
});

test("a directory of devices that has more files than any /dev is given up", async () => {
  const crowd = join(rootfs, "crowd");
  for (const name of ["a", "b/c", "b/d"]) mkdirSync(join(crowd, name), { recursive: true });
  const devices = [
    Device.fromPartial({ hostPath: crowd, containerPath: "/dev/x", permissions: "r" }),
  ];
  const refused = (mostEntries: number) =>
    expect(buildDevices({ devices, privileged: false, mountsDev: false, mostEntries })).rejects;
  await refused(3).toThrow(`devices[0].host_path: "${crowd}": more than 3 files are below it`);
  await refused(4).toThrow("holds no device");
});

test("who masks a path masks all that tells of the host; who masks none, none", async () => {
  const masked = async (maskedPaths: string[]) => {
    const input = specInput(rootfs, { linux: { securityContext: { maskedPaths } } });
    return (await buildSpec(input)).spec.linux.maskedPaths;
  };
  const some = await masked(["/proc/kcore", "/secret"]);
  expect(some).toEqual(expect.arrayContaining(["/secret", "/proc/interrupts", "/sys/firmware"]));
  expect(new Set(some).size).toBe(some.length);
  expect(await masked([])).toEqual([]);
});

describe("annotations", () => {
  test("are the kubelet's own of labels and annotations, and what node agents look for", async () => {
    const name = "io.kubernetes.container.name";
    const hash = "io.kubernetes.container.hash";
    const input = specInput(
      rootfs,
      {
        labels: { [name]: "label", [hash]: "label", role: "main" },
        annotations: { [hash]: "own", "example.org/note": "x" },
      },
      { podConfig: { annotations: { [hash]: "pod", "example.org/pod": "x" } } },
    );
    const { annotations } = (await buildSpec(input)).spec;
    expect(annotations).toMatchObject({
      [name]: "label",
      [hash]: "own",
      "io.kubernetes.cri.container-type": "container",
      "io.kubernetes.cri.container-name": "app",
      "io.kubernetes.cri.sandbox-id": input.pod.id,
      "io.kubernetes.cri.sandbox-uid": "uid-1",
      "io.kubernetes.cri.image-name": "registry.test/app:1",
      "io.kubernetes.cri-o.ContainerID": input.container.id,
      "io.kubernetes.cri-o.ContainerType": "container",
      "io.kubernetes.cri-o.SandboxID": input.pod.id,
      "io.kubernetes.cri-o.SandboxName": "web",
      "io.kubernetes.cri-o.Namespace": "default",
    });
    const others = Object.keys(annotations).filter((it) => !it.startsWith("io.kubernetes."));
    expect(others).toEqual([]);
  });

  test("cannot claim another identity, nor give the OCI runtime orders that nobody allows", async () => {
    const orders = {
      "run.oci.handler": "wasm",
      "module.wasm.image/variant": "compat",
      "org.systemd.property.CPUWeight": "1",
      "krun.variant": "sev",
    };
    const forged = { "io.kubernetes.cri-o.SandboxID": "x", ...orders };
    for (const input of [
      specInput(rootfs, { annotations: forged }),
      specInput(rootfs, { labels: forged }),
      specInput(rootfs, {}, { podConfig: { annotations: forged } }),
    ]) {
      const { spec, warnings } = await buildSpec(input);
      expect(spec.annotations["io.kubernetes.cri-o.SandboxID"]).toBe("p".repeat(64));
      for (const key of Object.keys(orders)) {
        expect(spec.annotations[key]).toBeUndefined();
        expect(warnings.join("\n")).toContain(`${key} is not passed to the OCI runtime`);
      }
    }
  });

  test("are what the handler's list has, by name or by beginning", async () => {
    const annotations = {
      "run.oci.handler": "wasm",
      "run.oci.handlers": "x",
      "krun.variant": "sev",
    };
    const keysWith = async (allowedAnnotations: string[]) => {
      const input = specInput(rootfs, { annotations }, { allowedAnnotations });
      const { spec } = await buildSpec(input);
      return Object.keys(spec.annotations).filter((key) => !key.startsWith("io.kubernetes."));
    };
    expect(await keysWith(["run.oci.handler"])).toEqual(["run.oci.handler"]);
    expect(await keysWith(["run.oci.*"])).toEqual(["run.oci.handler", "run.oci.handlers"]);
    expect(await keysWith(["*"])).toEqual(Object.keys(annotations));
    expect(await keysWith([])).toEqual([]);
  });

  test("and warnings hold no environment", async () => {
    const envs = [{ key: "PASSWORD", value: Buffer.from("hunter2") }];
    const { spec, warnings } = await buildSpec(specInput(rootfs, { envs, args: ["x"] }));
    expect(spec.process.env).toContain("PASSWORD=hunter2");
    expect(JSON.stringify([spec.annotations, warnings])).not.toContain("hunter2");
  });
});

test("warnings of all parts arrive", async () => {
  const input = specInput(
    rootfs,
    {
      linux: {
        resources: { oomScoreAdj: -5n, hugepageLimits: [{ pageSize: "2MB", limit: 0n }] },
        securityContext: {
          selinuxOptions: { level: "s0" },
        },
      },
    },
    { host: { ...ableHost, capabilities: ["CHOWN"], oomScoreAdjMin: 0, hugepageSizes: [] } },
  );
  const { warnings } = await buildSpec(input);
  for (const word of ["CAP_KILL", "selinux_options", "oom_score_adj", "hugepage_limits"]) {
    expect(warnings.join("\n")).toContain(word);
  }
});

describe("image volumes", () => {
  const volume = (path: string) =>
    buildSpec(specInput(rootfs, {}, { image: { config: { Volumes: [path] } } }));

  test("are made where the image's links lead, also those to what is not there yet", async () => {
    mkdirSync(join(rootfs, "var"));
    symlinkSync("../../run/made", join(rootfs, "var/relative"));
    symlinkSync("/var/relative", join(rootfs, "var/absolute"));
    await volume("/var/absolute/x");
    expect(existsSync(join(rootfs, "run/made/x"))).toBe(true);
    expect(existsSync(join(rootfs, "../run"))).toBe(false);
  });

  test("at links in a circle or at a file are refused by name", async () => {
    symlinkSync("circle", join(rootfs, "circle"));
    await expect(volume("/circle/x")).rejects.toThrow('image Volumes: "/circle/x"');
    writeFileSync(join(rootfs, "file"), "");
    await expect(volume("/file")).rejects.toThrow('image Volumes: "/file"');
  });

  test("that are deep are made step by step: others have their turn after each directory", async () => {
    const volumes = Array.from({ length: 12 }, (_, index) => `/${index}${"/d".repeat(20)}`);
    let turns = 0;
    const count = () => {
      turns += 1;
      counting = setImmediate(count);
    };
    let counting = setImmediate(count);
    await buildSpec(specInput(rootfs, {}, { image: { config: { Volumes: volumes } } }));
    clearImmediate(counting);
    for (const path of volumes) expect(existsSync(join(rootfs, path))).toBe(true);
    expect(turns).toBeGreaterThanOrEqual(240);
  });

  test("that take thousands of look-ups are refused by name", async () => {
    const Volumes = Array.from({ length: 5000 }, (_, index) => `/${"a/../".repeat(index % 9)}`);
    const built = buildSpec(specInput(rootfs, {}, { image: { config: { Volumes } } }));
    await expect(built).rejects.toThrow('image Volumes: "/"');
  });
});

test.each<[string, Parameters<typeof specInput>[1], Parameters<typeof specInput>[2], string]>([
  ["no metadata", { metadata: undefined }, {}, 'metadata.name: ""'],
  [
    "a masked path that is relative",
    { linux: { securityContext: { maskedPaths: ["a"] } } },
    {},
    'masked_paths[0]: "a"',
  ],
  [
    "a readonly path that is relative",
    { linux: { securityContext: { readonlyPaths: ["/a", ""] } } },
    {},
    'readonly_paths[1]: ""',
  ],
  ["an empty annotation key", { annotations: { "": "x" } }, {}, 'annotations: ""'],
  [
    "a device that is a file",
    { devices: [{ hostPath: "/etc/passwd", containerPath: "/dev/x", permissions: "r" }] },
    {},
    'devices[0].host_path: "/etc/passwd": is not a device',
  ],
  [
    "a device that is missing",
    { devices: [{ hostPath: "/dev/none", containerPath: "/dev/x", permissions: "r" }] },
    {},
    'devices[0].host_path: "/dev/none": ENOENT',
  ],
  [
    "a directory without devices",
    { devices: [{ hostPath: rootfs, containerPath: "/dev/x", permissions: "r" }] },
    {},
    "holds no device",
  ],
  [
    "device permissions of another kind",
    { devices: [{ hostPath: "/dev/null", containerPath: "/dev/x", permissions: "rx" }] },
    {},
    'devices[0].permissions: "rx"',
  ],
  [
    "no device permissions",
    { devices: [{ hostPath: "/dev/null", containerPath: "/dev/x" }] },
    {},
    'devices[0].permissions: ""',
  ],
  [
    "a relative device",
    { devices: [{ hostPath: "null", containerPath: "/dev/x", permissions: "r" }] },
    {},
    'devices[0].host_path: "null"',
  ],
  [
    "a target that does not run",
    {
      linux: {
        securityContext: { namespaceOptions: { pid: NamespaceMode.TARGET, targetId: "t" } },
      },
    },
    {},
    'target_id: "t"',
  ],
  ["a plain cgroup path for systemd", {}, { systemdCgroup: true }, "SLICE:PREFIX:NAME"],
])("%s is refused", async (_, container, more, message) => {
  await expect(buildSpec(specInput(rootfs, container, more))).rejects.toThrow(message);
});

test("a user that only the image knows is the container's, with its home", async () => {
  mkdirSync(join(rootfs, "etc"));
  writeFileSync(join(rootfs, "etc/passwd"), "app:x:1000:1000::/home/app:/bin/sh\n");
  const { spec, user } = await buildSpec(
    specInput(rootfs, {}, { image: { config: { User: "app" } } }),
  );
  expect(user).toEqual({ uid: 1000, gid: 1000, supplementalGroups: [1000] });
  expect(spec.process.env).toContain("HOME=/home/app");
  expect(spec.process.capabilities.effective).toEqual([]);
});
