import { finished } from "node:stream";
import { messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import type { ForwardedConnection, PortConnection, StreamingBackend } from "./channels.ts";

/**
 * How many connections of one client may be made or open: a pod's monitor has room for 1,024 streams,
 * those of exec and attach among them.
 */
export const MAX_CONNECTIONS = 512;

/** One client's connections to ports of a pod. */
export class Forwarder {
  /** Those that are being made, whether the client still wants them or not, and those that are open. */
  #count = 0;
  /** Those that are open. */
  readonly #ports = new Set<PortConnection>();
  /** Those that have been read from in this round. */
  readonly #served = new Set<PortConnection>();
  #held = false;
  #releases = 0;

  constructor(
    private readonly backend: Pick<StreamingBackend, "dial">,
    private readonly podSandboxId: string,
  ) {}

  /**
   * Connects a client's connection with its port in the pod, until both directions have ended or one
   * side has broken off: then the other side's connection is reset as well.
   */
  async forward(connection: ForwardedConnection): Promise<void> {
    const what = `cannot forward port ${connection.port} of pod ${this.podSandboxId}`;
    if (this.#count >= MAX_CONNECTIONS) {
      connection.fail(`${what}: this client has ${MAX_CONNECTIONS} connections`);
      return;
    }
    this.#count += 1;
    try {
      const target = await this.backend.dial(this.podSandboxId, connection.port);
      this.#join(connection, target);
      if (!target.closed) await new Promise((resolve) => target.once("close", resolve));
      this.#ports.delete(target);
      this.#served.delete(target);
    } catch (error) {
      log().debug({ error: messageOf(error) }, what);
      connection.fail(`${what}: ${messageOf(error)}`);
    } finally {
      this.#count -= 1;
    }
  }

  /**
   * The client takes nothing for now, or does again: meanwhile nothing is read from its ports. Each would
   * cost what one read brings, and there may be hundreds.
   */
  hold(held: boolean): void {
    if (held === this.#held) return;
    this.#held = held;
    if (!held) this.#release();
    else for (const port of this.#ports) port.hold(true);
  }

  /**
   * Ports are read from in rounds: the kernel names those that have something in the same order each time,
   * and the first of them may be more than the client takes.
   */
  #release(): void {
    if (this.#served.size === this.#ports.size) this.#served.clear();
    for (const port of this.#ports) if (!this.#served.has(port)) port.hold(false);
    if (this.#served.size === 0) return;
    this.#releases += 1;
    const release = this.#releases;
    // The loop looks at the ports between the two: those that are left of this round have nothing to say.
    setImmediate(() => setImmediate(() => this.#nextRound(release)));
  }

  #nextRound(release: number): void {
    if (this.#held || release !== this.#releases) return;
    for (const port of this.#served) port.hold(false);
    this.#served.clear();
  }

  #join(connection: ForwardedConnection, target: PortConnection): void {
    const { port, data } = connection;
    const what = `error forwarding port ${port} of pod ${this.podSandboxId}`;
    this.#ports.add(target);
    target.hold(this.#held);
    target.on("data", () => this.#served.add(target));
    target.on("error", (error) =>
      log().debug({ port, error: error.message }, "port-forward: lost"),
    );
    data.pipe(target);
    target.pipe(data);
    finished(target, (error) => {
      if (error && !data.destroyed) connection.reset(`${what}: ${error.message}`);
    });
    finished(data, (error) => {
      if (error) target.destroy();
    });
    if (data.destroyed) target.destroy();
  }
}
