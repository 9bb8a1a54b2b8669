import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import { OciRuntime } from "./oci-runtime.ts";
import { probeRuntime } from "./probe.ts";

export interface HandlersOptions {
  /** The `[runtime.handlers]` table; empty: crun and runc where they are in PATH. */
  table: Record<string, { path: string; root?: string }>;
  /** `runtime.default_handler`; "": crun where it works, else runc, else the table's first. */
  defaultHandler: string;
  /** Where the runtimes' own state goes, `<state>/runtimes`. */
  stateDir: string;
  systemdCgroup: boolean;
}

/** One handler and whether it works here. */
export interface Handler {
  name: string;
  path: string;
  /** "" when the runtime made and removed a container; else what it said. */
  problem: string;
}

interface Probe {
  at: number;
  /** What was tried; undefined: it is not believed any more. */
  program: string | undefined;
  result: Promise<string>;
  /** Its result is not there yet. */
  running: boolean;
}

/** How long a failed probe is believed before the next try. */
const RETRY_MS = 5_000;

/**
 * The runtime handlers of the node. Each is tried out by making a container (not starting it), so that
 * "ready" means ready: Debian 12's crun, say, is there but refuses a cgroup v1 hybrid host. What worked is
 * tried again when its program is another one than then.
 */
export class Handlers {
  readonly #options: HandlersOptions;
  readonly #runtimes = new Map<string, OciRuntime>();
  readonly #probes = new Map<string, Probe>();

  constructor(options: HandlersOptions) {
    this.#options = options;
    this.#discover();
  }

  /** Handlers found or configured, in the order of preference. */
  names(): string[] {
    return [...this.#runtimes.keys()];
  }

  /** All handlers with what their probe said; while none works, they are tried again. */
  async list(): Promise<Handler[]> {
    if (this.#runtimes.size === 0) this.#discover();
    const handlers = await this.#probeAll(false);
    if (handlers.some(({ problem }) => problem === "")) return handlers;
    return this.#probeAll(true);
  }

  /**
   * The runtime of a handler; "" is the default one.
   *
   * @throws CribError InvalidArgument: no such handler; FailedPrecondition: none works.
   */
  async get(name: string): Promise<OciRuntime> {
    const wanted = name === "" ? await this.defaultName() : name;
    const runtime = this.#runtimes.get(wanted) ?? this.#unknown(wanted, "runtime_handler");
    const problem = await this.#problem(runtime, true);
    if (problem !== "") throw new CribError("FailedPrecondition", problem);
    return runtime;
  }

  /**
   * Whether a handler works does not matter here; "" is the default one, which there always is.
   *
   * @throws CribError InvalidArgument: there is no such handler.
   */
  requireKnown(name: string, field: string): void {
    if (name !== "" && !this.#runtimes.has(name)) this.#unknown(name, field);
  }

  #unknown(name: string, field: string): never {
    const known = this.names().join(", ") || "(none)";
    throw new CribError("InvalidArgument", `${field}: "${name}" is not one of ${known}`);
  }

  /**
   * For a runtime that failed without a word, as one does whose libraries are gone: tries it out anew.
   *
   * @throws CribError FailedPrecondition: it does not work any more.
   */
  async recheck(name: string): Promise<void> {
    const known = this.#probes.get(name);
    if (known !== undefined && !known.running) known.program = undefined;
    await this.get(name);
  }

  /** Resolves when no runtime is being tried out: a daemon that ends must not leave its container. */
  async settled(): Promise<void> {
    await Promise.all([...this.#probes.values()].map(({ result }) => result));
  }

  /** The runtime of a handler, working or not; undefined: there is none of that name. */
  find(name: string): OciRuntime | undefined {
    return this.#runtimes.get(name);
  }

  /**
   * The runtime that made an existing container, whether or not its probe would succeed now.
   *
   * @throws CribError FailedPrecondition: it is not configured any more.
   */
  existing(name: string): OciRuntime {
    const runtime = this.#runtimes.get(name);
    if (runtime !== undefined) return runtime;
    throw new CribError(
      "FailedPrecondition",
      `runtime handler ${name}, which made this pod, is not there any more`,
    );
  }

  /** @throws CribError FailedPrecondition: no handler works; the message says why for each. */
  async defaultName(): Promise<string> {
    const configured = this.#options.defaultHandler;
    if (configured !== "") return configured;
    const handlers = await this.list();
    const working = handlers.find((handler) => handler.problem === "");
    if (working !== undefined) return working.name;
    throw new CribError(
      "FailedPrecondition",
      handlers.length === 0
        ? "no OCI runtime: neither crun nor runc is in PATH; install one or set runtime.handlers"
        : `no OCI runtime works: ${handlers.map((handler) => handler.problem).join("; ")}`,
    );
  }

  #discover(): void {
    const { table, stateDir, systemdCgroup } = this.#options;
    const entries = Object.entries(table);
    if (entries.length === 0) {
      for (const name of ["crun", "runc"]) {
        const path = Bun.which(name);
        if (path !== null) entries.push([name, { path }]);
      }
    }
    for (const [handler, { path, root }] of entries) {
      const runtimeRoot = root || `${stateDir}/${handler}`;
      this.#runtimes.set(
        handler,
        new OciRuntime({ handler, path, root: runtimeRoot, systemdCgroup }),
      );
    }
  }

  #probeAll(again: boolean): Promise<Handler[]> {
    return Promise.all(
      [...this.#runtimes.values()].map(async (runtime) => ({
        name: runtime.handler,
        path: runtime.path,
        problem: await this.#problem(runtime, again),
      })),
    );
  }

  /** What the probe says; `again`: what a failed one said some time ago is not believed. */
  async #problem(runtime: OciRuntime, again: boolean): Promise<string> {
    const program = runtime.program();
    const known = this.#probes.get(runtime.handler);
    if (known?.program === program) {
      const problem = await known.result;
      const stale = again && problem !== "" && performance.now() - known.at > RETRY_MS;
      if (!stale || this.#probes.get(runtime.handler) !== known) return problem;
    }
    // One after the other: they share a directory.
    const result = (known?.result ?? Promise.resolve()).then(() => this.#probe(runtime));
    const probe = { at: performance.now(), program, result, running: true };
    this.#probes.set(runtime.handler, probe);
    const problem = await result;
    probe.running = false;
    if (problem !== "" && problem !== (await known?.result)) {
      log().warn({ handler: runtime.handler, path: runtime.path, problem }, "handler unusable");
    }
    return problem;
  }

  #probe(runtime: OciRuntime): Promise<string> {
    const { stateDir, systemdCgroup } = this.#options;
    const directory = `${stateDir}/probe-${runtime.handler}`;
    return probeRuntime(runtime, { directory, systemdCgroup }).catch(
      (error: unknown) => `runtime handler ${runtime.handler}: ${messageOf(error)}`,
    );
  }
}
