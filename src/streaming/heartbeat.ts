/** How often a client that is not read is asked for a sign of life. */
const PERIOD_MS = 15_000;

/**
 * Finds out whether a client that is not read is still there: its end would come behind what it has
 * sent, and the kernel of a client that was killed goes on to answer TCP's own keep-alive. It answers
 * bytes with a reset, so something is sent that a living client passes over.
 */
export class Heartbeat {
  #timer: Timer | undefined;

  /** @param beat Sends something that asks for no answer: a client whose buffers are full has none. */
  constructor(private readonly beat: () => void) {}

  /** Begins when the client is no longer read, and ends when it is. */
  run(on: boolean): void {
    clearInterval(this.#timer);
    this.#timer = on ? setInterval(this.beat, PERIOD_MS) : undefined;
  }
}
