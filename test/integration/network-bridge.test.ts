/** Pods on a real bridge with the real plugins, in the private namespaces of test/isolate.sh. */
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { connect } from "node:net";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { Network, type PodAttachment } from "../../src/network/network.ts";

const REAL_PLUGINS = ["/opt/cni/bin", "/usr/lib/cni"];

const bridge = {
  type: "bridge",
  bridge: "cribtest0",
  isGateway: true,
  ipMasq: true,
  hairpinMode: true,
};
const portmap = { type: "portmap", capabilities: { portMappings: true } };

const mapped = {
  portMappings: [{ protocol: "tcp", containerPort: 80, hostPort: 18080, hostIp: "" }],
} satisfies Partial<PodAttachment>;

let directory: string;
let leases: string;
let network: Network;
let namespaces: string[];
let servers: Bun.Subprocess[];

beforeAll(() => {
  if (!("uplink0" in networkInterfaces())) {
    throw new Error("run this through test/isolate.sh, as `npm test` does");
  }
});

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "net-"));
  for (const name of ["conf", "bin"]) mkdirSync(join(directory, name));
  leases = join(directory, "leases");
  namespaces = [];
  servers = [];
  network = open();
});

afterEach(async () => {
  for (const server of servers) {
    server.kill("SIGKILL");
    await server.exited;
  }
  await network.gc(() => false);
  for (const pin of namespaces) await run("umount", pin);
  rmSync(directory, { recursive: true });
});

function open(timeoutMs = 30_000): Network {
  return new Network({
    confDir: join(directory, "conf"),
    binDirs: [join(directory, "bin"), ...REAL_PLUGINS],
    cacheDir: join(directory, "cache"),
    timeoutMs,
    assumedCapabilities: [],
  });
}

async function run(...argv: string[]): Promise<string> {
  const child = Bun.spawn(argv, { stdout: "pipe", stderr: "pipe" });
  const [output, problem, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new Error(`${argv.join(" ")}: exit code ${code}: ${problem}`);
  return output;
}

/** Writes a network of IPv4 (and IPv6) with the given further plugins. */
function configure(options: { ranges?: string[]; bridge?: string; plugins?: object[] } = {}): void {
  const ranges = options.ranges ?? ["10.88.0.0/24"];
  const routes = ranges.map((range) => ({ dst: range.includes(":") ? "::/0" : "0.0.0.0/0" }));
  const ipam = {
    type: "host-local",
    dataDir: leases,
    ranges: ranges.map((subnet) => [{ subnet }]),
    routes,
  };
  writeFileSync(
    join(directory, "conf/10-test.conflist"),
    JSON.stringify({
      cniVersion: "1.0.0",
      name: "cribtest",
      plugins: [
        { ...bridge, bridge: options.bridge ?? bridge.bridge, ipam },
        ...(options.plugins ?? []),
      ],
    }),
  );
}

/** A pod with a network namespace of its own, `lo` up as the monitor leaves it. */
async function newPod(id: string, changes: Partial<PodAttachment> = {}): Promise<PodAttachment> {
  const netns = join(directory, `${id}.netns`);
  writeFileSync(netns, "");
  await run("unshare", `--net=${netns}`, "ip", "link", "set", "lo", "up");
  namespaces.push(netns);
  return {
    id,
    namespace: "default",
    name: id,
    uid: id,
    netns,
    portMappings: [],
    annotations: {},
    cgroupPath: "",
    dns: { servers: [], searches: [], options: [] },
    ...changes,
  };
}

async function deleteNamespace(pod: PodAttachment): Promise<void> {
  await run("umount", pod.netns);
  rmSync(pod.netns);
  namespaces = namespaces.filter((pin) => pin !== pod.netns);
}

/** A command line that runs in the pod's network namespace. */
function inside(pod: PodAttachment, ...argv: string[]): string[] {
  return ["nsenter", `--net=${pod.netns}`, ...argv];
}

/** Addresses that host-local has given away. */
function leased(): string[] {
  const directory = join(leases, "cribtest");
  if (!existsSync(directory)) return [];
  return readdirSync(directory).filter((name) => /^\d+\.|:/.test(name));
}

async function hostState(): Promise<unknown> {
  const links = await run("ip", "-o", "link");
  return {
    links: links.match(/veth\w+|cribtest0(?=:)/g)?.sort() ?? [],
    nat: await run("iptables", "-t", "nat", "-S"),
    nat6: await run("ip6tables", "-t", "nat", "-S"),
    leased: leased(),
    records: await network.attachments(),
  };
}

/** The first bytes that a TCP server sends; "" when nobody answers. */
function greeting(host: string, port: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: 3000 });
    const end = (text: string) => {
      socket.destroy();
      resolve(text);
    };
    socket.on("data", (data) => end(data.toString().trim()));
    socket.on("error", () => end(""));
    socket.on("timeout", () => end(""));
    socket.on("close", () => end(""));
  });
}

/** Serves the pod's name on a TCP port of the pod. */
async function serve(pod: PodAttachment, port: number): Promise<void> {
  const listen = ["busybox", "nc", "-ll", "-p", String(port), "-e", "echo", pod.name];
  servers.push(Bun.spawn(inside(pod, ...listen)));
  const listening = async () =>
    (await run(...inside(pod, "cat", "/proc/net/tcp", "/proc/net/tcp6"))).includes(
      `:${port.toString(16).toUpperCase().padStart(4, "0")} `,
    );
  for (let left = 500; left > 0 && !(await listening()); left -= 1) await Bun.sleep(10);
}

test("a dual-stack pod has both addresses, in the order of the ranges, and reaches its gateways", async () => {
  configure({ ranges: ["10.88.0.0/24", "fd00:88::/64"] });
  expect(await network.status()).toEqual({ ready: true, reason: "", message: "" });
  const pod = await newPod("dual");
  const { ips, interfaces } = await network.add(pod);
  expect(ips).toEqual([expect.stringMatching(/^10\.88\.0\./), expect.stringMatching(/^fd00:88::/)]);
  expect(interfaces.find(({ sandbox }) => sandbox === pod.netns)?.name).toBe("eth0");
  const addresses = await run(...inside(pod, "ip", "-o", "addr", "show", "dev", "eth0"));
  for (const ip of ips) expect(addresses).toContain(` ${ip}/`);
  await run(...inside(pod, "busybox", "ping", "-c1", "-w5", "10.88.0.1"));
  await run(...inside(pod, "busybox", "ping6", "-c1", "-w5", "fd00:88::1"));
  await network.del(pod.id);
  expect(await run(...inside(pod, "ip", "-o", "link"))).not.toContain("eth0");
  expect(leased()).toEqual([]);
});

test("two pods reach each other", async () => {
  configure();
  const [one, two] = [await newPod("one"), await newPod("two")];
  const [first] = await Promise.all([network.add(one), network.add(two)]);
  const ip = first.ips[0] ?? "";
  await run(...inside(two, "busybox", "ping", "-c1", "-w5", ip));
});

test("an address is free again after DEL", async () => {
  configure({ bridge: "cribtest1", ranges: ["10.88.7.0/30"] });
  const one = await newPod("one");
  const two = await newPod("two");
  const { ips } = await network.add(one);
  const full = await network.add(two).catch((error: Error) => error.message);
  expect(full).toContain("CNI plugin bridge: ADD for network cribtest, pod default/two");
  expect(full).toContain("no IP addresses available");
  expect(await network.attachments()).toEqual([one.id]);
  await network.del(one.id);
  expect((await network.add(two)).ips).toEqual(ips);
});

test("DEL frees the address of a pod whose namespace is gone, by another daemon too", async () => {
  configure();
  const pod = await newPod("gone");
  await network.add(pod);
  expect(leased().length).toBe(1);
  await deleteNamespace(pod);
  const later = open();
  expect(await later.attachments()).toEqual([pod.id]);
  await later.gc(() => false);
  expect(leased()).toEqual([]);
  expect(await later.attachments()).toEqual([]);
});

test("a lease that a power cut has emptied is freed; a young one and those of others stay", async () => {
  configure();
  const pod = await newPod("cut");
  const other = await newPod("other");
  const [{ ips }, others] = [await network.add(pod), await network.add(other)];
  const files = join(leases, "cribtest");
  const longAgo = new Date("2001-01-01");
  for (const [address, content, date] of [
    [ips[0] ?? "", "", longAgo],
    ["10.88.0.200", "", longAgo],
    ["10.88.0.201", "", new Date()],
    ["10.88.0.202", "somebody\r\neth0", longAgo],
  ] as const) {
    writeFileSync(join(files, address), content);
    utimesSync(join(files, address), date, date);
  }
  await deleteNamespace(pod);
  await open().gc((id) => id === other.id);
  expect(leased().sort()).toEqual([others.ips[0] ?? "", "10.88.0.201", "10.88.0.202"].sort());
  expect(existsSync(join(files, "lock"))).toBe(true);
  expect(await network.attachments()).toEqual([other.id]);
});

describe("host ports", () => {
  test("are reachable at the host's address, at localhost and from another pod until DEL", async () => {
    configure({ plugins: [portmap] });
    const pod = await newPod("web", mapped);
    const other = await newPod("other");
    await network.add(pod);
    await network.add(other);
    await serve(pod, 80);
    expect(await greeting("192.0.2.2", 18080)).toBe("web");
    expect(await greeting("127.0.0.1", 18080)).toBe("web");
    const fetched = ["busybox", "nc", "-w", "3", "192.0.2.2", "18080"];
    expect((await run(...inside(other, ...fetched))).trim()).toBe("web");
    await network.del(pod.id);
    expect(await greeting("192.0.2.2", 18080)).toBe("");
    expect(await run("iptables", "-t", "nat", "-S")).not.toContain("18080");
  });

  test("of one host address are not served at another", async () => {
    configure({ plugins: [portmap] });
    const portMappings = [{ ...mapped.portMappings[0], hostIp: "127.0.0.1" }];
    const pod = await newPod("web", { portMappings } as Partial<PodAttachment>);
    await network.add(pod);
    await serve(pod, 80);
    expect(await greeting("127.0.0.1", 18080)).toBe("web");
    expect(await greeting("192.0.2.2", 18080)).toBe("");
  });
});

test("30 pods come and go and leave the host as it was", async () => {
  configure({ ranges: ["10.88.0.0/24", "fd00:88::/64"], plugins: [portmap] });
  const first = await newPod("first", mapped);
  await network.add(first);
  await network.del(first.id);
  const before = await hostState();
  for (let round = 0; round < 6; round += 1) {
    const pods = await Promise.all(
      Array.from({ length: 5 }, (_, i) => {
        const hostPort = 20_000 + round * 5 + i;
        return newPod(`c${round}-${i}`, {
          portMappings: [{ protocol: "tcp", containerPort: 80, hostPort, hostIp: "" }],
        });
      }),
    );
    const results = await Promise.all(pods.map((pod) => network.add(pod)));
    expect(new Set(results.flatMap(({ ips }) => ips)).size).toBe(10);
    await Promise.all(pods.map((pod) => network.del(pod.id)));
    await Promise.all(pods.map(deleteNamespace));
  }
  expect(await hostState()).toEqual(before);
});

describe("a failing plugin after the bridge", () => {
  function script(body: string): void {
    const path = join(directory, "bin/last");
    writeFileSync(path, `#!/bin/sh\n${body}\n`);
    chmodSync(path, 0o755);
  }

  for (const [name, body, message, timeoutMs] of [
    ["fails", '[ "$CNI_COMMAND" != ADD ]', "exit code 1", 30_000],
    ["hangs", '[ "$CNI_COMMAND" != ADD ] || sleep 1000', "longer than 3 s", 3000],
  ] as const) {
    test(`${name}: interface, address and rules are taken back`, async () => {
      script(body);
      configure({ plugins: [{ type: "last" }] });
      network = open(timeoutMs);
      const before = (await hostState()) as { links: string[] };
      const pod = await newPod("p");
      const error = await network.add(pod).catch((problem: Error) => problem.message);
      expect(error).toContain(message);
      const after = (await hostState()) as { links: string[] };
      const links = after.links.filter((link) => link !== bridge.bridge);
      expect({ ...after, links }).toEqual({
        ...before,
        links: before.links.filter((link) => link !== bridge.bridge),
      });
      expect(await run(...inside(pod, "ip", "-o", "link"))).not.toContain("eth0");
    });
  }
});

test("the annotated bandwidth limits the pod's interface", async () => {
  configure({ plugins: [{ type: "bandwidth", capabilities: { bandwidth: true } }] });
  const pod = await newPod("slow", { annotations: { "kubernetes.io/ingress-bandwidth": "10M" } });
  const { interfaces } = await network.add(pod);
  const veth = interfaces.find(({ name }) => name.startsWith("veth"))?.name ?? "";
  expect(await run("tc", "qdisc", "show", "dev", veth)).toMatch(/tbf .*rate 10Mbit/);
});

test("loopback and tuning in the list do no harm", async () => {
  const tuning = { type: "tuning", dataDir: join(directory, "tuning"), mtu: 1400 };
  configure({ plugins: [{ type: "loopback" }, tuning] });
  const pod = await newPod("tuned");
  const { ips } = await network.add(pod);
  expect(ips).toEqual([expect.stringMatching(/^10\.88\.0\./)]);
  expect(await run(...inside(pod, "ip", "-o", "link", "show", "dev", "eth0"))).toContain(
    "mtu 1400",
  );
  await network.del(pod.id);
  expect(leased()).toEqual([]);
});
