import type { Core } from "../container/core.ts";
import type { Streaming } from "../cri/context.ts";
import { messageOf } from "../error.ts";
import { log } from "../observe/log.ts";

/**
 * Answers Prometheus on `metrics.address`, when there is one. An address that cannot be had is told in
 * the log: metrics are no reason not to run pods.
 *
 * @returns the way to stop.
 */
export async function startMetrics(
  { config, images }: Core,
  streaming: Streaming,
): Promise<() => Promise<void>> {
  const { address } = config.metrics;
  const nothing = () => Promise.resolve();
  if (address === "") return nothing;
  const [{ serveMetrics }, { imageMetrics }, { streamingMetrics }] = await Promise.all([
    import("../observe/metrics.ts"),
    import("../image/metrics.ts"),
    import("../streaming/metrics.ts"),
  ]);
  try {
    const server = serveMetrics(address, [
      ...imageMetrics(images),
      ...streamingMetrics(() => streaming.sessions()),
    ]);
    log().info({ address: server.address }, "answering Prometheus");
    return () => server.stop();
  } catch (error) {
    log().error({ address, error: messageOf(error) }, "metrics.address: off, not to be had");
    return nothing;
  }
}
