/** Layers whose zstd frames keep much in memory: one after the other, on this whole node. */
import { CribError } from "../error.ts";
import { Semaphore } from "./semaphore.ts";
import { WINDOW_LIMIT_LOG, ZstdFrames } from "./zstd-frames.ts";

const MIB = 1024 * 1024;
/** What every decoder should be able to keep (RFC 8878, section 3.1.1.1.2); zstd's levels up to 19 want no more. */
const USUAL_WINDOW_BYTES = 8 * MIB;
const WINDOW_LIMIT_BYTES = 2 ** WINDOW_LIMIT_LOG;

export class WindowTurns {
  readonly #turns = new Semaphore(1);

  /**
   * Runs `body` with the bytes of `layer`. Before those of a frame with a large window it waits until no
   * other layer with one is being unpacked; its own turn ends with `body`.
   *
   * @throws CribError FailedPrecondition: a window above 32 MiB; Canceled while waiting. `what` names the
   *   layer in messages.
   */
  async run<T>(
    layer: AsyncIterable<Uint8Array>,
    what: string,
    signal: AbortSignal,
    body: (layer: AsyncIterable<Uint8Array>) => Promise<T>,
  ): Promise<T> {
    const turns = this.#turns;
    const held: Array<() => void> = [];
    async function* inTurn(): AsyncGenerator<Uint8Array, void, void> {
      const frames = new ZstdFrames();
      for await (const chunk of layer) {
        const window = frames.push(chunk);
        if (window > WINDOW_LIMIT_BYTES) throw tooLarge(what, window);
        if (window > USUAL_WINDOW_BYTES && held.length === 0) held.push(await turns.take(signal));
        yield chunk;
      }
    }
    try {
      return await body(inTurn());
    } finally {
      for (const release of held) release();
    }
  }
}

function tooLarge(what: string, window: number): CribError {
  const [has, limit] = [window, WINDOW_LIMIT_BYTES].map((bytes) => Math.ceil(bytes / MIB));
  return new CribError(
    "FailedPrecondition",
    `${what}: a zstd frame has a window of ${has} MiB, at most ${limit} MiB`,
  );
}
