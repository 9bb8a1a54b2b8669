import type { Readable } from "node:stream";
import * as v from "valibot";
import type { TerminalSize } from "../container/streams.ts";
import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";

const Cells = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffff));
const Size = v.object({ Width: Cells, Height: Cells });

/** One size has some thirty bytes. */
const MAX_PENDING_CHARS = 1024;

/** Reads `{"Width":111,"Height":33}`, one object after the other, cut anywhere. */
export class ResizeParser {
  readonly #decoder = new TextDecoder();
  #pending = "";

  /**
   * @returns The last whole size, if there is one that is not 0: terminals that do not know say so.
   * @throws CribError InvalidArgument: nothing can be made of what follows.
   */
  push(bytes: Uint8Array): TerminalSize | undefined {
    this.#pending += this.#decoder.decode(bytes, { stream: true });
    let last: TerminalSize | undefined;
    for (let end = this.#pending.indexOf("}"); end >= 0; end = this.#pending.indexOf("}")) {
      const size = parseSize(this.#pending.slice(0, end + 1));
      if (size.columns > 0 && size.rows > 0) last = size;
      this.#pending = this.#pending.slice(end + 1);
    }
    if (this.#pending.length > MAX_PENDING_CHARS) throw notASize(this.#pending);
    return last;
  }
}

/** Tells the sizes that come in a stream; those that have come already waited in it. */
export function readSizes(stream: Readable, listener: (size: TerminalSize) => void): void {
  const parser = new ResizeParser();
  stream.on("data", (chunk: Buffer) => {
    try {
      const size = parser.push(chunk);
      if (size !== undefined) listener(size);
    } catch (error) {
      log().info(
        { error: messageOf(error) },
        "the client's terminal sizes are ignored from now on",
      );
      stream.removeAllListeners("data");
      stream.resume();
    }
  });
}

function parseSize(text: string): TerminalSize {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw notASize(text);
  }
  const result = v.safeParse(Size, value);
  if (!result.success) throw notASize(text);
  return { columns: result.output.Width, rows: result.output.Height };
}

function notASize(text: string): CribError {
  const shown = JSON.stringify(text.slice(0, 60));
  return new CribError("InvalidArgument", `resize: ${shown} is no {"Width":…,"Height":…}`);
}
