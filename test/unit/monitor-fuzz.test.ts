/**
 * Random and damaged frames, on both sides of the monitor's protocol, with another seed each time.
 * `CRIB_FUZZ_SECONDS=600` hunts longer; `CRIB_FUZZ_SEED` repeats what a failure has printed.
 */
import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CribError } from "../../src/error.ts";
import { FRAME_LIMIT_BYTES, FrameParser } from "../../src/monitor/frame.ts";
import { encodeEmpty, encodeKill, Request } from "../../src/monitor/protocol.ts";
import { FUZZ_MS, randomOf } from "../fixtures/fuzz.ts";
import { buildSanitized, runSanitized } from "../fixtures/sanitized.ts";

const MONITOR_SECONDS = Number(process.env.CRIB_FUZZ_SECONDS ?? "3");
const SEED = Number(process.env.CRIB_FUZZ_SEED ?? Date.now());
/** The rest of the last round, and the compiler. */
const MARGIN_MS = 60_000;

test(
  "whatever clients send, the monitor survives, answers honest ones once, and leaves nothing open",
  () => {
    const parts = readdirSync(join(import.meta.dir, "../../src/native"))
      .filter((name) => name.endsWith(".c") && name !== "main.c")
      .map((name) => name.replace(".c", ""));
    const wrapped = ["spawn", "kill", "waitpid", "clock_gettime", "connect", "epoll_wait"];
    const binary = buildSanitized("fuzz", parts, [...wrapped, "client_send"]);
    const directory = mkdtempSync(join(tmpdir(), "crib-fuzz-"));
    try {
      const lines = runSanitized(binary, [directory, `${MONITOR_SECONDS}`, `${SEED}`]);
      expect(lines.at(-1)).toMatch(/^\d+ rounds$/);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  },
  MONITOR_SECONDS * 1000 + MARGIN_MS,
);

/** All frames of a stream that comes in pieces, and the error that ended it. */
function parse(pieces: Iterable<Uint8Array>): string[] {
  const seen: string[] = [];
  const parser = new FrameParser(({ type, request, payload }) => {
    seen.push(`${type} ${request} ${Buffer.from(payload).toString("hex")}`);
  });
  try {
    for (const piece of pieces) parser.push(piece);
  } catch (error) {
    if (!(error instanceof CribError) || error.code !== "DataLoss") throw error;
    seen.push(error.message);
  }
  return seen;
}

function* cut(stream: Uint8Array, below: (limit: number) => number): Generator<Uint8Array> {
  for (let at = 0; at < stream.length; ) {
    const end = Math.min(stream.length, at + 1 + below(20));
    yield stream.subarray(at, end);
    at = end;
  }
}

test(
  "a damaged stream gives the same frames and the same error however it is cut",
  () => {
    const end = performance.now() + FUZZ_MS;
    for (let seed = SEED; performance.now() < end; seed++) {
      const below = randomOf(seed);
      const frames = Array.from({ length: 1 + below(20) }, (_, request) =>
        below(2)
          ? encodeKill(request, "x".repeat(below(60)), below(64))
          : encodeEmpty(request, Request.list),
      );
      const stream = new Uint8Array(Buffer.concat(frames));
      for (let hits = below(4); hits > 0; hits--) {
        const at = below(stream.length);
        stream[at] = (stream[at] ?? 0) ^ (1 << below(8));
      }
      const whole = parse([stream]);
      if (Bun.deepEquals(parse(cut(stream, below)), whole)) continue;
      throw new Error(`CRIB_FUZZ_SEED=${seed}: the cut stream is read differently`);
    }
    const huge = new Uint8Array(12);
    new DataView(huge.buffer).setUint32(0, FRAME_LIMIT_BYTES + 1, true);
    expect(parse([huge])[0]).toContain(`a frame of ${FRAME_LIMIT_BYTES + 1} bytes`);
  },
  FUZZ_MS + MARGIN_MS,
);
