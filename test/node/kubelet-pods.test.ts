/** What a kubelet's pods see: volumes, names, network, users, privileges; and their probes. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { type Fields, hostDirectory, Kubelet, readHostFile, shell, stay } from "./kubelet.ts";
import { cleaned, nginx, sh, until } from "./node.ts";

let kubelet: Kubelet;
/** The kubelet makes a static pod of a name wait for the end of the one before. */
let serial = 0;

beforeAll(async () => {
  kubelet = await Kubelet.start();
});

afterAll(async () => {
  await kubelet.stop();
});

describe("probes", () => {
  test("exec: ready only while the command succeeds", async () => {
    hostDirectory("readiness");
    kubelet.apply("execprobe", {
      volumes: [{ name: "v", hostPath: { path: hostDirectory("readiness") } }],
      containers: [
        shell(stay, {
          volumeMounts: [{ name: "v", mountPath: "/v" }],
          readinessProbe: {
            exec: { command: ["cat", "/v/ready"] },
            periodSeconds: 1,
            timeoutSeconds: 20,
          },
        }),
      ],
    });
    await kubelet.reaches("execprobe", "runs", (it) => it.containerStatuses?.[0]?.state.running);
    expect((await kubelet.status("execprobe"))?.containerStatuses?.[0]?.ready).toBe(false);
    writeFileSync("/var/tmp/pods/readiness/ready", "");
    await kubelet.ready("execprobe");
    await kubelet.remove("execprobe");
  });

  test("exec: a failing liveness probe restarts the container", async () => {
    kubelet.apply("liveness", {
      containers: [
        shell(stay, {
          livenessProbe: {
            exec: { command: ["false"] },
            periodSeconds: 2,
            failureThreshold: 2,
            timeoutSeconds: 20,
          },
        }),
      ],
    });
    await kubelet.reaches(
      "liveness",
      "was restarted",
      (it) => (it.containerStatuses?.[0]?.restartCount ?? 0) > 0,
    );
    await kubelet.remove("liveness");
  });

  test("HTTP and TCP: a web server is started, ready and reachable at the pod's address", async () => {
    const probe = { periodSeconds: 2, timeoutSeconds: 20, failureThreshold: 30 };
    kubelet.apply("web", {
      containers: [
        {
          name: "main",
          image: nginx,
          startupProbe: { ...probe, tcpSocket: { port: 80 } },
          readinessProbe: { ...probe, httpGet: { path: "/", port: 80 } },
        },
      ],
    });
    const { podIP } = await kubelet.ready("web");
    expect(await (await fetch(`http://${podIP}/`)).text()).toBe("hello\n");
    await kubelet.remove("web");
  });

  test("HTTP: ready only while the path is answered", async () => {
    const path = hostDirectory("pages");
    kubelet.apply("httpprobe", {
      volumes: [{ name: "v", hostPath: { path } }],
      containers: [
        {
          name: "main",
          image: nginx,
          volumeMounts: [{ name: "v", mountPath: "/srv/www/pages" }],
          readinessProbe: { httpGet: { path: "/pages/ready", port: 80 }, periodSeconds: 1 },
        },
      ],
    });
    await kubelet.reaches("httpprobe", "runs", (it) => it.containerStatuses?.[0]?.state.running);
    expect((await kubelet.status("httpprobe"))?.containerStatuses?.[0]?.ready).toBe(false);
    writeFileSync(`${path}/ready`, "");
    await kubelet.ready("httpprobe");
    await kubelet.remove("httpprobe");
  });

  test("HTTP and TCP: a failing liveness probe restarts the container", async () => {
    const probes = {
      httplive: { httpGet: { path: "/no-such-page", port: 80 } },
      tcplive: { tcpSocket: { port: 81 } },
    };
    for (const [name, probe] of Object.entries(probes)) {
      const livenessProbe = { ...probe, periodSeconds: 2, failureThreshold: 2 };
      kubelet.apply(name, { containers: [{ name: "main", image: nginx, livenessProbe }] });
    }
    for (const name of Object.keys(probes)) {
      await kubelet.reaches(
        name,
        "was restarted",
        (it) => (it.containerStatuses?.[0]?.restartCount ?? 0) > 0,
      );
      await kubelet.remove(name);
    }
  });
});

describe("volumes and files", () => {
  test("an emptyDir on disk and one in memory are shared by two containers", async () => {
    const volumeMounts = [
      { name: "disk", mountPath: "/disk" },
      { name: "memory", mountPath: "/memory" },
    ];
    kubelet.apply("empty", {
      restartPolicy: "Never",
      volumes: [
        { name: "disk", emptyDir: {} },
        { name: "memory", emptyDir: { medium: "Memory", sizeLimit: "8Mi" } },
      ],
      containers: [
        shell(
          "while [ ! -e /disk/x ]; do sleep 1; done; cat /disk/x; grep -c ' /memory tmpfs' /proc/mounts",
          { volumeMounts },
        ),
        shell("echo shared >/disk/y; mv /disk/y /disk/x", { name: "other", volumeMounts }),
      ],
    });
    await kubelet.reaches("empty", "has succeeded", (it) => it.phase === "Succeeded");
    expect(await kubelet.logs("empty")).toBe("shared\n1\n");
    await kubelet.remove("empty");
  });

  test("a hostPath, read-only and with a subPath", async () => {
    writeFileSync(`${hostDirectory("host")}/file`, "from the node\n");
    writeFileSync(`${hostDirectory("host/sub")}/other`, "below\n");
    const mount = (mountPath: string, more: Fields = {}) => ({ name: "v", mountPath, ...more });
    const log = await kubelet.outputOf("hostpath", {
      volumes: [{ name: "v", hostPath: { path: hostDirectory("host") } }],
      containers: [
        shell("cat /v/file /s/other /one; touch /v/no 2>&1 | grep -o 'Read-only.*'; touch /s/yes", {
          volumeMounts: [
            mount("/v", { readOnly: true }),
            mount("/s", { subPath: "sub" }),
            mount("/one", { subPath: "sub/other" }),
          ],
        }),
      ],
    });
    expect(log).toBe("from the node\nbelow\nbelow\nRead-only file system");
    expect(readHostFile("host", "sub/yes")).toBe("");
  });

  test("the downward API as environment and as files", async () => {
    const field = (fieldPath: string) => ({ fieldRef: { fieldPath } });
    const log = await kubelet.outputOf("downward", {
      volumes: [
        { name: "info", downwardAPI: { items: [{ path: "ns", ...field("metadata.namespace") }] } },
      ],
      containers: [
        shell("echo $NAME $NODE $LIMIT; cat /info/ns", {
          resources: { limits: { memory: "32Mi" } },
          volumeMounts: [{ name: "info", mountPath: "/info" }],
          env: [
            { name: "NAME", valueFrom: field("metadata.name") },
            { name: "NODE", valueFrom: field("spec.nodeName") },
            {
              name: "LIMIT",
              valueFrom: { resourceFieldRef: { containerName: "main", resource: "limits.memory" } },
            },
          ],
        }),
      ],
    });
    expect(log).toBe("downward-node node 33554432\ndefault");
  });

  test("hostname, hosts and resolv.conf are the pod's", async () => {
    const log = await kubelet.outputOf("names", {
      hostname: "given",
      hostAliases: [{ ip: "192.0.2.7", hostnames: ["friend"] }],
      dnsPolicy: "None",
      dnsConfig: {
        nameservers: ["192.0.2.53"],
        searches: ["a.example"],
        options: [{ name: "ndots", value: "2" }],
      },
      containers: [
        shell(
          "hostname; grep -w friend /etc/hosts | tr -s '\\t ' ' '; grep -w given /etc/hosts | wc -l; cat /etc/resolv.conf",
        ),
      ],
    });
    expect(log.split("\n")).toEqual([
      "given",
      "192.0.2.7 friend",
      "1",
      "search a.example",
      "nameserver 192.0.2.53",
      "options ndots:2",
    ]);
  });
});

describe("security contexts", () => {
  test("user, group, supplemental groups, and the volume's group", async () => {
    const log = await kubelet.outputOf("users", {
      securityContext: {
        runAsUser: 1000,
        runAsGroup: 2000,
        fsGroup: 3000,
        supplementalGroups: [4000],
      },
      volumes: [{ name: "v", emptyDir: {} }],
      containers: [
        shell("id -u; id -g; id -G; stat -c %g /v; touch /v/x; stat -c %u:%g /v/x", {
          volumeMounts: [{ name: "v", mountPath: "/v" }],
        }),
      ],
    });
    const [user, group, groups, ...files] = log.split("\n");
    expect([user, group, ...files]).toEqual(["1000", "2000", "3000", "1000:3000"]);
    expect(groups?.split(" ").sort()).toEqual(["2000", "3000", "4000"]);
  });

  test("runAsNonRoot refuses root and says so", async () => {
    kubelet.apply("nonroot", {
      containers: [shell(stay, { securityContext: { runAsNonRoot: true } })],
    });
    const status = await kubelet.reaches(
      "nonroot",
      "says why",
      (it) => it.containerStatuses?.[0]?.state.waiting?.message,
    );
    expect(status.containerStatuses?.[0]?.state.waiting?.message).toContain("runAsNonRoot");
    await kubelet.remove("nonroot");
  });

  const status = (more: Fields, what: string) =>
    kubelet.outputOf(`context${++serial}`, {
      containers: [shell(`grep ${what} /proc/self/status | cut -f2`, { securityContext: more })],
    });

  test("capabilities are dropped and added", async () => {
    expect(await status({ capabilities: { drop: ["ALL"], add: ["NET_RAW"] } }, "CapBnd")).toBe(
      "0000000000002000",
    );
  });

  test("no-new-privileges and the default seccomp profile are on as asked", async () => {
    expect(await status({ allowPrivilegeEscalation: false }, "NoNewPrivs")).toBe("1");
    expect(await status({ allowPrivilegeEscalation: true }, "NoNewPrivs")).toBe("0");
    // seccompDefault of the kubelet: RuntimeDefault for who asks for nothing.
    expect(await status({}, "Seccomp:")).toBe("2");
    expect(await status({ seccompProfile: { type: "Unconfined" } }, "Seccomp:")).toBe("0");
  });

  test("a read-only root file system", async () => {
    const log = await kubelet.outputOf("readonly", {
      containers: [
        shell("touch /x 2>&1 | grep -o 'Read-only.*'", {
          securityContext: { readOnlyRootFilesystem: true },
        }),
      ],
    });
    expect(log).toBe("Read-only file system");
  });

  test("privileged: all capabilities and the node's devices", async () => {
    const log = await kubelet.outputOf("privileged", {
      containers: [
        shell("grep CapEff /proc/self/status | cut -f2; ls /dev/vda", {
          securityContext: { privileged: true },
        }),
      ],
    });
    const [capabilities, device] = log.split("\n");
    expect(BigInt(`0x${capabilities}`)).toBeGreaterThan(0x1ffffffffffn - 1n);
    expect(device).toBe("/dev/vda");
  });

  test("a safe sysctl is set in the pod", async () => {
    const log = await kubelet.outputOf("sysctl", {
      securityContext: { sysctls: [{ name: "net.ipv4.ip_unprivileged_port_start", value: "80" }] },
      containers: [shell("cat /proc/sys/net/ipv4/ip_unprivileged_port_start")],
    });
    expect(log).toBe("80");
  });

  test("the runtime's AppArmor profile, as it is or Unconfined", async () => {
    const profile = (type: string) =>
      kubelet.outputOf(`apparmor${++serial}`, {
        containers: [
          shell("cat /proc/self/attr/current", { securityContext: { appArmorProfile: { type } } }),
        ],
      });
    // Debian names the confinement of the OCI runtime itself, which confines nothing.
    expect(await profile("Unconfined")).toMatch(/^((crun|runc) \(unconfined\)|unconfined)$/);
    expect(await profile("RuntimeDefault")).toMatch(/^crib\S* \(enforce\)$/);
  });
});

describe("namespaces", () => {
  test("a host port leads to the pod", async () => {
    kubelet.apply("port", {
      containers: [{ name: "main", image: nginx, ports: [{ containerPort: 80, hostPort: 8080 }] }],
    });
    await kubelet.ready("port");
    const text = await until("an answer at the host port", () =>
      fetch("http://10.0.2.15:8080/").then(
        (it) => it.text(),
        () => undefined,
      ),
    );
    expect(text).toBe("hello\n");
    await kubelet.remove("port");
    await until("the end of its rules", () => !sh("iptables-save", "-t", "nat").includes("8080"));
  });

  test("the node's network, PIDs and IPC", async () => {
    const log = await kubelet.outputOf("host", {
      ...{ hostNetwork: true, hostPID: true, hostIPC: true },
      containers: [
        shell(
          "for n in net pid ipc; do readlink /proc/self/ns/$n; done; hostname; cat /proc/1/comm",
        ),
      ],
    });
    const own = ["net", "pid", "ipc"].map((it) => sh("readlink", `/proc/self/ns/${it}`).trim());
    expect(log.split("\n")).toEqual([...own, "node", "systemd"]);
  });

  test("containers with a shared PID namespace see each other; Crib's pause is PID 1", async () => {
    kubelet.apply("shared", {
      shareProcessNamespace: true,
      restartPolicy: "Never",
      containers: [
        shell(stay.replace("100000", "4242"), { name: "other" }),
        shell("until ps | grep -q '[s]leep 4242'; do sleep 1; done; cat /proc/1/comm"),
      ],
    });
    await kubelet.reaches(
      "shared",
      "has ended",
      (it) => it.containerStatuses?.find((one) => one.name === "main")?.state.terminated,
    );
    expect(await kubelet.logs("shared")).toBe("crib-pause\n");
    await kubelet.remove("shared");
  });
});

test("nothing is left when all pods are gone", async () => {
  await kubelet.stop();
  expect(await cleaned()).toEqual([]);
});
