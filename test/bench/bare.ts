/** What Crib is compared with: runc alone, and runc below Debian's conmon. */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Runs a command to its end; its output goes nowhere. */
export async function run(argv: string[], cwd = "/"): Promise<void> {
  const child = Bun.spawn(argv, { cwd, stdio: ["ignore", "ignore", "ignore"] });
  const exitCode = await child.exited;
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: exit status ${exitCode}`);
}

/** runc, with bundles made from its own default specification, in the host's network like the pods. */
export class BareRunc {
  #count = 0;
  readonly #root: string;

  /** `cgroupParent`: the path that all its cgroups are below. */
  constructor(
    readonly directory: string,
    readonly rootfs: string,
    readonly cgroupParent: string,
  ) {
    this.#root = join(directory, "runc");
  }

  runc(...argv: string[]): Promise<void> {
    return run(["runc", "--root", this.#root, ...argv]);
  }

  get globalArguments(): string[] {
    return [`--root=${this.#root}`];
  }

  bundle(id: string): string {
    return join(this.directory, id);
  }

  /** Makes the bundle of a new container that runs `script` and then idles; its id. */
  async prepare(script = "true"): Promise<string> {
    this.#count += 1;
    const id = `bare-${this.#count}`;
    mkdirSync(this.bundle(id), { recursive: true });
    await run(["runc", "spec"], this.bundle(id));
    const path = join(this.bundle(id), "config.json");
    const spec = JSON.parse(readFileSync(path, "utf8"));
    spec.process.terminal = false;
    spec.process.args = ["/bin/sh", "-c", `${script}; exec sleep 100000`];
    spec.root = { path: this.rootfs, readonly: false };
    spec.linux.cgroupsPath = `${this.cgroupParent}/${id}`;
    spec.linux.namespaces = spec.linux.namespaces.filter(
      (namespace: { type: string }) => namespace.type !== "network",
    );
    await Bun.write(path, JSON.stringify(spec));
    return id;
  }

  /** `runc create` and `runc start`. */
  async up(id: string): Promise<void> {
    await this.runc("create", "--bundle", this.bundle(id), id);
    await this.runc("start", id);
  }

  exec(id: string): Promise<void> {
    return this.runc("exec", id, "/bin/true");
  }

  delete(id: string): Promise<void> {
    return this.runc("delete", "--force", id);
  }
}

async function appears(path: string, timeoutMs: number): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!existsSync(path) || readFileSync(path, "utf8") === "") {
    if (performance.now() > end) throw new Error(`${path}: not there after ${timeoutMs} ms`);
    await Bun.sleep(2);
  }
}

/** Starts a container below conmon as CRI-O does, without exit command. Gives conmon's pid. */
export async function conmonUp(
  runc: BareRunc,
  id: string,
  log = join(runc.bundle(id), "log"),
): Promise<number> {
  const directory = runc.bundle(id);
  const pidFile = join(directory, "conmon.pid");
  const containerPidFile = join(directory, "container.pid");
  await run([
    ...["conmon", "--cid", id, "--cuuid", id, "--name", id, "--runtime", Bun.which("runc") ?? ""],
    ...runc.globalArguments.flatMap((argument) => ["--runtime-arg", argument]),
    ...["--bundle", directory],
    ...["--conmon-pidfile", pidFile, "--container-pidfile", containerPidFile],
    ...["--exit-dir", directory, "--socket-dir-path", directory, "--persist-dir", directory],
    ...["--log-path", `k8s-file:${log}`],
  ]);
  await appears(containerPidFile, 10_000);
  await runc.runc("start", id);
  return Number(readFileSync(pidFile, "utf8"));
}
