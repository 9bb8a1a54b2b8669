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

/** How long a failed probe is believed before the next try. */
const RETRY_MS = 5_000;

/**
 * The runtime handlers of the node. Each is tried out once by making a container (not starting it), so
 * that "ready" means ready: Debian 12's crun, say, is there but refuses a cgroup v1 hybrid host.
 */
export class Handlers {
  readonly #options: HandlersOptions;
  readonly #runtimes = new Map<string, OciRuntime>();
  readonly #problems = new Map<string, Promise<string>>();

  constructor(options: HandlersOptions) {
    this.#options = options;
    this.#discover();
  }

  /** Handlers found or configured, in the order of preference. */
  names(): string[] {
    return [...this.#runtimes.keys()];
  }

  /** All handlers with what their probe said. */
  async list(): Promise<Handler[]> {
    if (this.#runtimes.size === 0) this.#discover();
    return Promise.all(
      [...this.#runtimes.values()].map(async (runtime) => ({
        name: runtime.handler,
        path: runtime.path,
        problem: await this.#problem(runtime),
      })),
    );
  }

  /**
   * The runtime of a handler; "" is the default one.
   *
   * @throws CribError InvalidArgument: no such handler; FailedPrecondition: none works.
   */
  async get(name: string): Promise<OciRuntime> {
    const wanted = name === "" ? await this.defaultName() : name;
    const runtime = this.#runtimes.get(wanted);
    if (runtime === undefined) {
      throw new CribError(
        "InvalidArgument",
        `runtime_handler: "${wanted}" is not one of ${this.names().join(", ") || "(none)"}`,
      );
    }
    const problem = await this.#problem(runtime);
    if (problem !== "") throw new CribError("FailedPrecondition", problem);
    return runtime;
  }

  /** The runtime that made an existing container, whether or not its probe would succeed now. */
  existing(name: string): OciRuntime | undefined {
    return this.#runtimes.get(name);
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

  #problem(runtime: OciRuntime): Promise<string> {
    const known = this.#problems.get(runtime.handler);
    if (known !== undefined) return known;
    const { stateDir, systemdCgroup } = this.#options;
    const probe = probeRuntime(runtime, {
      directory: `${stateDir}/probe-${runtime.handler}`,
      systemdCgroup,
    }).catch((error: unknown) => `runtime handler ${runtime.handler}: ${messageOf(error)}`);
    this.#problems.set(runtime.handler, probe);
    probe.then((problem) => {
      if (problem === "") return;
      log().warn({ handler: runtime.handler, path: runtime.path, problem }, "handler unusable");
      setTimeout(() => this.#problems.delete(runtime.handler), RETRY_MS).unref();
    });
    return probe;
  }
}
