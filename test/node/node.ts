/**
 * In the virtual machine: Crib as a systemd unit with what a user configures, CRI clients for it, and
 * what pods could leave on the node.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CriClients, connectCri } from "../../src/cli/cri-client.ts";
import { mountsBelow } from "../fixtures/leftovers.ts";
import { until as poll } from "../fixtures/until.ts";

export const socket = "/run/crib/crib.sock";
export const busybox = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
export const nginx = "registry.k8s.io/e2e-test-images/nginx:1.14-2";
/** No image shares a layer with it. */
export const layered = "registry.k8s.io/node-tests/layered:1";

/** Runs a program; its standard output. Throws with its messages when it fails. */
export function sh(...argv: string[]): string {
  const { stdout, stderr, exitCode } = Bun.spawnSync(argv, { stdin: "ignore" });
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${exitCode}: ${stderr}${stdout}`);
  return stdout.toString();
}

/** "active", "inactive", ... of a systemd unit, whether there is one or not. */
export function unitState(unit: string): string {
  return Bun.spawnSync(["systemctl", "is-active", unit]).stdout.toString().trim();
}

/** `until` at the pace of an emulated machine. */
export function until<T>(what: string, look: () => T | Promise<T>, limitMs = 120_000) {
  return poll(what, look, limitMs, 200);
}

/** Keys of crib.toml by section. */
export type Settings = Record<string, Record<string, string>>;

/** Crib as a unit. */
export class Crib {
  readonly runtime: CriClients["runtime"];
  readonly image: CriClients["image"];

  constructor() {
    const clients = connectCri(socket, { timeoutMs: 300_000 });
    this.runtime = clients.runtime;
    this.image = clients.image;
  }

  /** Installs it as a user would, with `settings` in a drop-in, starts the unit anew and waits for an answer. */
  static async start(settings: Settings = {}): Promise<Crib> {
    sh("/mnt/crib/bin/crib", "install");
    const sections = Object.entries({ log: { level: "debug" }, ...settings }).map(
      ([section, keys]) =>
        [
          `[${section}]`,
          ...Object.entries(keys).map(([k, v]) => `${k} = ${JSON.stringify(v)}`),
        ].join("\n"),
    );
    mkdirSync("/etc/crib/crib.d", { recursive: true });
    writeFileSync("/etc/crib/crib.d/node-tests.toml", `${sections.join("\n")}\n`);
    sh("systemctl", "daemon-reload");
    sh("systemctl", "restart", "crib");
    const crib = new Crib();
    await crib.answers();
    return crib;
  }

  async answers(): Promise<void> {
    await until("an answer from Crib", () =>
      this.runtime.version({}, { timeoutMs: 10_000 }).then(
        () => true,
        () => false,
      ),
    );
  }

  pid(): number {
    return Number(sh("systemctl", "show", "-p", "MainPID", "--value", "crib"));
  }

  async restart(): Promise<void> {
    sh("systemctl", "restart", "crib");
    await this.answers();
  }

  /** SIGKILL to the daemon alone; systemd starts it again. */
  async kill(): Promise<void> {
    const before = this.pid();
    process.kill(before, "SIGKILL");
    await until("a new daemon", () => ![0, before].includes(this.pid()));
    await this.answers();
  }

  async stop(): Promise<void> {
    sh("systemctl", "stop", "crib");
  }

  /** Stops and removes every pod. */
  async removeAll(): Promise<void> {
    const { items } = await this.runtime.listPodSandbox({});
    for (const { id } of items) {
      await this.runtime.stopPodSandbox({ podSandboxId: id });
      await this.runtime.removePodSandbox({ podSandboxId: id });
    }
  }
}

/** Addresses that host-local holds; one whose file a power cut has emptied can never be given back. */
export function leases(): string[] {
  const directory = "/var/lib/cni/networks/crib";
  return entries(directory)
    .filter((it) => /^\d/.test(it))
    .map((it) => (readFileSync(join(directory, it), "utf8") === "" ? `${it} (empty)` : it));
}

export function entries(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return []; // not made yet
  }
}

/** All cgroups below `path` (relative to the tree's root) whose name begins with "crio-". */
export function podCgroups(path = ""): string[] {
  return readdirSync(join("/sys/fs/cgroup", path), { withFileTypes: true })
    .filter((it) => it.isDirectory())
    .flatMap(({ name }) => [
      ...(name.startsWith("crio-") ? [`${path}/${name}`] : []),
      ...entriesBelow(`${path}/${name}`),
    ]);
}

function entriesBelow(path: string): string[] {
  try {
    return podCgroups(path);
  } catch {
    return []; // gone while we looked
  }
}

function processes(name: string): string[] {
  return entries("/proc")
    .filter((it) => /^\d+$/.test(it))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/comm`, "utf8").trim().startsWith(name);
      } catch {
        return false; // it ended
      }
    });
}

/** Mounts in Crib's directories. */
export function cribMounts(): string[] {
  return ["/run/crib", "/var/lib/crib"].flatMap(mountsBelow);
}

/** One line for each thing of a pod or container that is on the node; none when all are removed. */
export function leftovers(): string[] {
  const scopes = sh("systemctl", "list-units", "--all", "--plain", "--no-legend", "crio-*");
  return [
    ...scopes
      .split("\n")
      .filter(Boolean)
      .map((it) => `unit ${it}`),
    ...podCgroups().map((it) => `cgroup ${it}`),
    ...entries("/sys/class/net")
      .filter((it) => it.startsWith("veth"))
      .map((it) => `interface ${it}`),
    ...leases().map((it) => `IP ${it}`),
    ...["/run/crib/pods", "/run/crib/containers", "/var/lib/crib/containers"].flatMap((directory) =>
      entries(directory).map((it) => `file ${directory}/${it}`),
    ),
    ...cribMounts().map((it) => `mount ${it}`),
    ...processes("crib-monitor").map((it) => `monitor ${it}`),
  ];
}

/** What is left when it had some time to go: the kernel and systemd end scopes a moment later. */
export async function cleaned(): Promise<string[]> {
  const end = performance.now() + 30_000;
  for (;;) {
    const left = leftovers();
    if (left.length === 0 || performance.now() > end) return left;
    await Bun.sleep(500);
  }
}

/** A file below /sys/fs/cgroup. */
export function cgroupFile(cgroup: string, name: string): string {
  return readFileSync(join("/sys/fs/cgroup", cgroup, name), "utf8").trim();
}
