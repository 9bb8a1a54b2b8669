/** What the cAdvisor inside a kubelet finds at CRI-O's socket. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type CribOptions, startCrib } from "../fixtures/crib.ts";
import { startNode, type TestNode } from "../fixtures/pods.ts";
import { until } from "../fixtures/until.ts";

let directory: string;
let socket: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "crib-cadvisor-"));
  socket = join(directory, "crio/crio.sock");
});
afterAll(() => {
  rmSync(directory, { recursive: true, force: true });
});

async function get(path: string, at = socket, method = "GET") {
  const response = await fetch(`http://crio${path}`, { unix: at, method });
  const text = await response.text();
  return { status: response.status, text, json: () => JSON.parse(text) };
}

const start = (options: CribOptions = {}) =>
  startCrib({ set: { "cadvisor.socket": socket }, ...options });

describe("the socket", () => {
  test("answers root alone, and is gone with the daemon", async () => {
    const crib = await start();
    try {
      expect(lstatSync(socket).mode & 0o7777).toBe(0o600);
      const { status, json } = await get("/info");
      expect(status).toBe(200);
      expect(json().storage_root).toBe(crib.root);
      expect((await get(`/containers/${"0".repeat(64)}`)).status).toBe(404);
      expect((await get("/info", socket, "POST")).status).toBe(405);
    } finally {
      await crib.stop();
    }
    expect(existsSync(socket)).toBe(false);
    expect(existsSync(`${socket}.crib`)).toBe(false);
  });

  test("a killed daemon's is taken over, also by one with other directories", async () => {
    const killed = await start();
    await killed.kill();
    expect(existsSync(socket)).toBe(true);
    const crib = await start();
    try {
      expect((await get("/info")).json().storage_root).toBe(crib.root);
    } finally {
      await crib.stop();
      rmSync(killed.directory, { recursive: true });
    }
  });

  test("of two daemons the first keeps it, the second says so and serves CRI all the same", async () => {
    const first = await start();
    const second = await start();
    try {
      expect((await get("/info")).json().storage_root).toBe(first.root);
      expect(second.log()).toContain(
        "cadvisor.socket: off, another Crib answers the kubelet there",
      );
      expect((await second.runtime.version({})).runtimeName).toBe("crib");
    } finally {
      await second.stop();
      expect((await get("/info")).status).toBe(200);
      await first.stop();
    }
  });

  test("is not taken from another runtime, alive or not, nor is what is no socket", async () => {
    const other = Bun.serve({ unix: socket, fetch: () => new Response("cri-o") });
    const crib = await start();
    expect(crib.log()).toContain("cadvisor.socket: off, another runtime answers there");
    await crib.stop();
    expect((await get("/info")).text).toBe("cri-o");
    await other.stop(true);

    deadSocket(socket);
    const ino = lstatSync(socket).ino;
    const second = await start();
    expect(second.log()).toContain("cadvisor.socket: off, the socket of another runtime is there");
    await second.stop();
    expect(lstatSync(socket).ino).toBe(ino);
    rmSync(socket);

    writeFileSync(socket, "precious");
    const third = await start();
    expect(third.log()).toContain("cadvisor.socket: off, something that is no socket is there");
    await third.stop();
    expect(await Bun.file(socket).text()).toBe("precious");
    rmSync(socket);
  });

  test("that another runtime put in our place stays when we go", async () => {
    const crib = await start();
    rmSync(socket);
    const other = Bun.serve({ unix: socket, fetch: () => new Response("cri-o") });
    await crib.stop();
    expect((await get("/info")).text).toBe("cri-o");
    await other.stop(true);
  });

  test('is off with "", where it cannot be made, and where it would be the CRI socket', async () => {
    const off = await start({ set: { "cadvisor.socket": '""' } });
    expect(off.log()).toContain("cadvisor.socket is empty");
    await off.stop();
    const file = join(directory, "file");
    writeFileSync(file, "");
    const refused = await start({ set: { "cadvisor.socket": join(file, "crio.sock") } });
    expect(refused.log()).toContain("cadvisor.socket: off, not to be had");
    await refused.stop();
    const own = join(directory, "own");
    mkdirSync(own);
    const same = await start({
      directory: own,
      set: { "cadvisor.socket": join(own, "crib.sock") },
    });
    expect(same.log()).toContain("cadvisor.socket: off, it is also crib.socket");
    expect((await same.runtime.version({})).runtimeName).toBe("crib");
    await same.stop();
  });
});

/** A socket file that nobody listens on, as a killed CRI-O leaves it. */
function deadSocket(path: string): void {
  mkdirSync(dirname(path), { recursive: true });
  const script =
    "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un($ARGV[0])) or die";
  expect(Bun.spawnSync(["perl", "-e", script, path]).exitCode).toBe(0);
}

describe("a pod", () => {
  let node: TestNode;
  let own: string;

  beforeAll(async () => {
    own = join(directory, "node.sock");
    node = await startNode({ set: { "cadvisor.socket": own } });
  });
  afterAll(async () => {
    await node.stop();
  });

  test("shows its network through the monitor's process, its container through its own", async () => {
    const pod = await node.pod();
    const made = await node.run(pod, { command: ["sleep", "60"] });
    const seen = await get(`/containers/${pod.id}`, own);
    const { pid, labels, root } = seen.json();
    expect(labels["io.kubernetes.container.name"]).toBe("POD");
    expect(labels["io.kubernetes.pod.name"]).toBe(pod.config.metadata?.name ?? "");
    const container = (await get(`/containers/${made.id}`, own)).json();
    const netOf = (of: number) => readlinkSync(`/proc/${of}/ns/net`);
    expect(netOf(pid)).toBe(netOf(container.pid));
    expect(netOf(pid)).not.toBe(netOf(process.pid));
    expect(await Bun.file(`/proc/${pid}/net/dev`).text()).toContain("eth0");
    // What cAdvisor measures: the directory "diff" beside the root.
    expect(existsSync(container.root.replace(/merged$/, "diff"))).toBe(true);
    expect(existsSync(root.replace(/merged$/, "diff"))).toBe(true);
    expect(await Bun.file(`/proc/${pid}/cgroup`).text()).toContain(`/crio-${pod.id}`);
    expect(await Bun.file(`/proc/${container.pid}/cgroup`).text()).toContain(`/crio-${made.id}`);
    expect(container.image).toBe(node.image);

    await node.kill();
    await node.start();
    expect((await get(`/containers/${pod.id}`, own)).json().pid).toBe(pid);
    await node.runtime.removePodSandbox({ podSandboxId: pod.id });
    expect((await get(`/containers/${pod.id}`, own)).status).toBe(404);
    expect((await get(`/containers/${made.id}`, own)).status).toBe(404);
  });

  test("is known from the first moment that its cgroup is there", async () => {
    node.close("cni-add");
    const creation = node.pod();
    let found: string | undefined;
    await until("the pod's cgroup", () => {
      const place = `*${node.cgroupParent}/crio-*`;
      const names = Bun.spawnSync(["find", "/sys/fs/cgroup", "-path", place]).stdout.toString();
      found = /crio-([0-9a-f]{64})/.exec(names)?.[1];
      return found !== undefined;
    });
    const seen = await get(`/containers/${found}`, own);
    node.open("cni-add");
    const pod = await creation;
    expect(found).toBe(pod.id);
    expect(seen.status).toBe(200);
    await node.runtime.removePodSandbox({ podSandboxId: pod.id });
  });
});
