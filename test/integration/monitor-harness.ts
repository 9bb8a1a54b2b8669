/** Real runc containers under a real monitor, in a directory of their own. */
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Readable } from "node:stream";
import { C_FLAGS } from "../../src/build.ts";
import { adoptMonitor } from "../../src/monitor/adopt.ts";
import type { Live, Monitor } from "../../src/monitor/client.ts";
import { type MonitorOptions, startMonitor } from "../../src/monitor/start.ts";
import type {
  ContainerExit,
  CreateRequest,
  ExecRequest,
  ExecResult,
  SetFlow,
  Wants,
} from "../../src/monitor/types.ts";

export const DEADLINE_MS = 20_000;
const RUNC = Bun.which("runc") ?? "/usr/sbin/runc";
const CGROUPS = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].filter((path) => existsSync(path));

/** Where a sanitized helper says what is wrong with it: it has no standard error. */
export const SANITIZER_REPORTS = join(tmpdir(), "crib-sanitizer-reports");
const ROOT = join(import.meta.dir, "../..");
const SANITIZER_FLAGS = [
  ..."-std=c17 -g -O1 -Wall -Wextra -Werror".split(" "),
  ..."-fsanitize=address,undefined -fno-sanitize-recover=all".split(" "),
];

/**
 * Builds the helper as the build script does, into test/.cache; once for the same sources. With
 * CRIB_TEST_SANITIZED=1 under the sanitizers instead.
 */
export function buildMonitor(): string {
  const files = [...new Bun.Glob("src/native/*.[ch]").scanSync({ cwd: ROOT })].sort();
  const sanitized = process.env.CRIB_TEST_SANITIZED === "1";
  if (!sanitized) return compileMonitor("musl-gcc", C_FLAGS, files);
  mkdirSync(SANITIZER_REPORTS, { recursive: true });
  // A monitor has no environment, and nothing on a heap that could leak. Handlers of signals would make
  // those that the kernel drops deadly.
  const options = join(tmpdir(), "sanitizer-options.c");
  const handlers = ["segv", "sigbus", "sigfpe", "sigill", "sigtrap", "abort"];
  const unhandled = handlers.map((name) => `handle_${name}=0`).join(":");
  const text = `"detect_leaks=0:${unhandled}:log_path=${SANITIZER_REPORTS}/report"`;
  const source = ["asan", "ubsan"]
    .map((name) => `const char *__${name}_default_options(void) { return ${text}; }\n`)
    .join("");
  writeFileSync(options, source);
  return compileMonitor("clang", SANITIZER_FLAGS, [...files, options]);
}

/** @param files relative to the repository, or absolute */
export function compileMonitor(compiler: string, flags: string[], files: string[]): string {
  const cache = join(ROOT, "test/.cache/native");
  mkdirSync(cache, { recursive: true });
  const hash = new Bun.CryptoHasher("sha256").update([compiler, ...flags].join(" "));
  for (const file of files) hash.update(readFileSync(resolve(ROOT, file)));
  const binary = join(cache, `crib-monitor-${hash.digest("hex").slice(0, 16)}`);
  if (existsSync(binary)) return binary;
  const temporary = `${binary}.${process.pid}`;
  const sources = files.filter((file) => file.endsWith(".c"));
  run(compiler, [...flags, ...sources, "-o", temporary], ROOT);
  renameSync(temporary, binary); // another test run may be using it
  return binary;
}

function run(command: string, args: string[], cwd = "/"): void {
  const { status, stderr } = spawnSync(command, args, { cwd, encoding: "utf8" });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${status} ${stderr}`);
}

export interface Launch {
  args: string[];
  stdin?: boolean;
  stdinOnce?: boolean;
  tty?: boolean;
  memoryLimitBytes?: number;
  /** Mounted or bound into the container; `[source, destination]`. */
  binds?: Array<[string, string]>;
  namespaces?: Array<{ type: string; path?: string }>;
  logPath?: string;
  logBytesPerSecond?: number;
  /** Leave it created. */
  start?: boolean;
}

/** A pod's directory with a monitor; `dispose` removes all of it. */
export class TestPod {
  readonly exits = new Map<string, ContainerExit>();
  private readonly waiting = new Map<string, Array<(exit: ContainerExit) => void>>();
  private serial = 0;
  readonly containers: string[] = [];

  private constructor(
    readonly root: string,
    readonly directory: string,
    readonly cgroup: string,
    readonly pins: string[],
    public monitor: Monitor,
  ) {
    this.listen();
  }

  static async start(
    binary: string,
    extra: Partial<Omit<MonitorOptions, "namespaces">> = {},
    namespaces: Array<"net" | "ipc" | "uts" | "pid"> = [],
  ): Promise<TestPod> {
    const root = mkdtempSync(join(tmpdir(), "crib-monitor-"));
    const directory = join(root, "pod");
    const paths = Object.fromEntries(namespaces.map((kind) => [kind, join(root, `${kind}.ns`)]));
    const monitor = await startMonitor({
      podId: "testpod",
      directory,
      namespaces: paths,
      sysctls: {},
      deadlineMs: DEADLINE_MS,
      binary,
      ...extra,
    }).catch((error) => {
      rmSync(root, { recursive: true, force: true });
      throw error;
    });
    makeRootfs(join(root, "rootfs"));
    const cgroup = `/crib-test-${crypto.randomUUID().slice(0, 8)}`;
    return new TestPod(root, directory, cgroup, Object.values(paths), monitor);
  }

  listen(): void {
    this.monitor.onExit((exit) => {
      this.exits.set(exit.id, exit);
      for (const resolve of this.waiting.get(exit.id) ?? []) resolve(exit);
    });
  }

  exited(id: string): Promise<ContainerExit> {
    const exit = this.exits.get(id);
    if (exit !== undefined) return Promise.resolve(exit);
    const { promise, resolve } = Promise.withResolvers<ContainerExit>();
    this.waiting.set(id, [...(this.waiting.get(id) ?? []), resolve]);
    return promise;
  }

  path(name: string): string {
    return join(this.root, name);
  }

  logPath(id: string): string {
    return this.path(`${id}.log`);
  }

  log(id: string): string {
    return readFileSync(this.logPath(id), "utf8");
  }

  runtime(...args: string[]): string[] {
    const log = ["--log", this.path("runc.log"), "--log-format", "json"];
    return [RUNC, "--root", this.path("runc"), ...log, ...args];
  }

  createRequest(id: string, launch: Launch): CreateRequest {
    const bundle = this.path(`containers/${id}`);
    mkdirSync(bundle, { recursive: true });
    const config = spec(this.path("rootfs"), `${this.cgroup}/${id}`, launch);
    writeFileSync(join(bundle, "config.json"), JSON.stringify(config));
    const pidFile = join(bundle, "pid");
    const memory = CGROUPS[0] ?? "";
    const oomFile = existsSync("/sys/fs/cgroup/cgroup.controllers")
      ? `/sys/fs/cgroup${this.cgroup}/${id}/memory.events`
      : `${memory}${this.cgroup}/${id}/memory.oom_control`;
    const console = launch.tty ? ["--console-socket", "console.sock"] : [];
    return {
      id,
      argv: this.runtime("create", "--bundle", bundle, "--pid-file", pidFile, ...console, id),
      env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
      cwd: bundle,
      logPath: launch.logPath ?? this.logPath(id),
      logBytesPerSecond: launch.logBytesPerSecond ?? 0,
      stdin: launch.stdin ?? false,
      stdinOnce: launch.stdinOnce ?? false,
      consoleSocket: launch.tty ? "console.sock" : undefined,
      pidFile,
      oomFile,
      deadlineMs: DEADLINE_MS,
    };
  }

  /** Creates and starts a container; its id. */
  async run(launch: Launch): Promise<string> {
    const id = `c${++this.serial}`;
    this.containers.push(id);
    const created = await this.monitor.create(this.createRequest(id, launch));
    if (created.pid === 0) {
      const log = readFileSync(this.path("runc.log"), "utf8");
      throw new Error(`create ${id}: ${JSON.stringify(created)} ${log}`);
    }
    if (launch.start !== false) this.start(id);
    return id;
  }

  start(id: string): void {
    const [command = "", ...args] = this.runtime("start", id);
    run(command, args);
  }

  async exec(
    id: string,
    args: string[],
    {
      timeoutMs = 0,
      drainMs = 500,
      signal,
      onOutput = () => undefined,
    }: {
      timeoutMs?: number;
      drainMs?: number;
      signal?: AbortSignal;
      onOutput?: (setFlow: SetFlow) => void;
    } = {},
  ): Promise<ExecResult & { stdout: string; stderr: string }> {
    const stdout: Uint8Array[] = [];
    const stderr: Uint8Array[] = [];
    const take = (chunks: Uint8Array[]) => (chunk: Uint8Array, setFlow: SetFlow) => {
      chunks.push(chunk.slice());
      onOutput(setFlow);
    };
    const output = { stdout: take(stdout), stderr: take(stderr) };
    const request = this.execRequest(id, args, { timeoutMs, drainMs });
    const result = await this.monitor.exec(request, output, signal);
    const text = (chunks: Uint8Array[]) => Buffer.concat(chunks).toString();
    return { ...result, stdout: text(stdout), stderr: text(stderr) };
  }

  /** Connects anew, as a daemon that was started again. */
  async adopt(): Promise<void> {
    this.monitor = await adoptMonitor(this.directory, DEADLINE_MS);
    this.listen();
  }

  /** Runs a command with live streams. */
  async execLive(
    id: string,
    args: string[],
    wants: Partial<Wants> = { stdout: true, stderr: true },
    { drainMs = 500 } = {},
  ): Promise<Live<ExecResult>> {
    const all = { stdin: false, stdout: false, stderr: false, tty: false, ...wants };
    const socket = `exec-${this.serial + 1}.sock`;
    const tty = all.tty ? ["--tty", "--console-socket", socket] : [];
    const request = this.execRequest(id, args, { timeoutMs: 0, drainMs }, tty);
    return this.monitor.execLive(request, all, socket);
  }

  private execRequest(
    id: string,
    args: string[],
    times: Pick<ExecRequest, "timeoutMs" | "drainMs">,
    options: string[] = [],
  ): ExecRequest {
    const pidFile = this.path(`exec-${++this.serial}.pid`);
    return {
      id,
      argv: this.runtime("exec", "--detach", "--pid-file", pidFile, ...options, id, ...args),
      env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
      cwd: this.path(`containers/${id}`),
      pidFile,
      ...times,
    };
  }

  async dispose(): Promise<void> {
    for (const id of this.containers) {
      const [command = "", ...args] = this.runtime("delete", "--force", id);
      spawnSync(command, args);
    }
    await this.monitor.shutdown().catch(() => {});
    for (const pin of this.pins) spawnSync("umount", ["-l", pin]);
    for (const controller of new Bun.Glob("*").scanSync({
      cwd: "/sys/fs/cgroup",
      onlyFiles: false,
    })) {
      spawnSync("rmdir", [join("/sys/fs/cgroup", controller, this.cgroup)]);
    }
    rmSync(this.root, { recursive: true, force: true });
  }
}

function makeRootfs(path: string): void {
  for (const name of ["bin", "proc", "dev", "tmp", "sys"]) {
    mkdirSync(join(path, name), { recursive: true });
  }
  copyFileSync("/bin/busybox", join(path, "bin/busybox"));
  const applets =
    "sh cat sleep echo printf kill yes head seq dd true false env ls mount ps wc tr stty tty nc";
  for (const applet of applets.split(" ")) symlinkSync("busybox", join(path, "bin", applet));
}

function spec(rootfs: string, cgroupsPath: string, launch: Launch): unknown {
  const memory = launch.memoryLimitBytes;
  return {
    ociVersion: "1.0.2",
    process: {
      terminal: launch.tty ?? false,
      user: { uid: 0, gid: 0 },
      args: launch.args,
      env: ["PATH=/bin"],
      cwd: "/",
      noNewPrivileges: true,
    },
    root: { path: rootfs },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
      {
        destination: "/dev/pts",
        type: "devpts",
        source: "devpts",
        options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
      },
      ...(launch.binds ?? []).map(([source, destination]) => ({
        destination,
        type: "bind",
        source,
        options: ["rbind"],
      })),
    ],
    linux: {
      cgroupsPath,
      namespaces: launch.namespaces ?? [{ type: "pid" }, { type: "mount" }, { type: "ipc" }],
      resources: memory === undefined ? {} : { memory: { limit: memory, swap: memory } },
    },
  };
}

/** "" when it cannot be read, as what tells of a process that has ended. */
export function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** The pid of a process with this command line. */
export function findProcess(...argv: string[]): number | undefined {
  const line = `${argv.join("\0")}\0`;
  const found = readdirSync("/proc").find(
    (name) => /^\d+$/.test(name) && readText(`/proc/${name}/cmdline`) === line,
  );
  return found === undefined ? undefined : Number(found);
}

/** All that a stream says until its end. */
export async function read(stream: Readable | undefined): Promise<string> {
  if (stream === undefined) throw new Error("there is no such stream");
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

/** The CRI log's records: stream, tag and content of each line. */
export function parseLog(text: string): Array<{ stream: string; tag: string; content: string }> {
  return text
    .split("\n")
    .slice(0, -1)
    .map((line) => {
      const match = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([PF]) (.*)$/s.exec(
        line,
      );
      if (match === null) throw new Error(`no CRI log line: ${line.slice(0, 100)}`);
      const [, stream = "", tag = "", content = ""] = match;
      return { stream, tag, content };
    });
}
