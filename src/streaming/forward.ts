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
  /** Those that are open; whose port has said nothing for the longest time comes first. */
  readonly #ports = new Set<PortConnection>();
  #held = false;

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
    // The first that is let go is the first that is read from.
    for (const target of this.#ports) target.hold(held);
  }

  #join(connection: ForwardedConnection, target: PortConnection): void {
    const { port, data } = connection;
    const what = `error forwarding port ${port} of pod ${this.podSandboxId}`;
    this.#ports.add(target);
    target.hold(this.#held);
    target.on("data", () => {
      this.#ports.delete(target);
      this.#ports.add(target);
    });
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
