import { type Duplex, finished } from "node:stream";
import { messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import type { ForwardedConnection, StreamingBackend } from "./channels.ts";

/**
 * Connects a client's connection with its port in the pod, until both directions have ended or one side
 * has broken off: then the other side's connection is reset as well.
 */
export async function forward(
  backend: Pick<StreamingBackend, "dial">,
  podSandboxId: string,
  connection: ForwardedConnection,
): Promise<void> {
  const { port, data } = connection;
  let target: Duplex;
  try {
    target = await backend.dial(podSandboxId, port);
  } catch (error) {
    log().info({ podSandboxId, port, error: messageOf(error) }, "port-forward: no connection");
    connection.fail(`cannot forward port ${port} of pod ${podSandboxId}: ${messageOf(error)}`);
    return;
  }
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
