import { type Duplex, finished } from "node:stream";
import { messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import type { ForwardedConnection, StreamingBackend } from "./channels.ts";

/**
 * How many connections of one client may be made or open: a pod's monitor has room for 1,024 streams,
 * those of exec and attach among them.
 */
export const MAX_CONNECTIONS = 512;

/** One client's connections to ports of a pod. */
export class Forwarder {
  /** Those that are being made, whether the client still wants them or not, and those that are open. */
  #count = 0;

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
      join(connection, target);
      if (!target.closed) await new Promise((resolve) => target.once("close", resolve));
    } catch (error) {
      log().debug({ error: messageOf(error) }, what);
      connection.fail(`${what}: ${messageOf(error)}`);
    } finally {
      this.#count -= 1;
    }
  }
}

function join({ port, data }: ForwardedConnection, target: Duplex): void {
  // A reset is no failure of port-forwarding: a text about it would make kubectl give up the others.
  target.on("error", (error) => log().debug({ port, error: error.message }, "port-forward: lost"));
  data.pipe(target);
  target.pipe(data);
  finished(target, (error) => {
    if (error) data.destroy();
  });
  finished(data, (error) => {
    if (error) target.destroy();
  });
  if (data.destroyed) target.destroy();
}
