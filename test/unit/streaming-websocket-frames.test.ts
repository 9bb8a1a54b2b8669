import { describe, expect, test } from "bun:test";
import { isUtf8 } from "node:buffer";
import {
  CloseCode,
  closeFrame,
  FRAME_LIMIT_BYTES,
  FrameParser,
  frame,
  frameHeader,
  Opcode,
  WebSocketError,
} from "../../src/streaming/websocket-frames.ts";
import { FUZZ_MS, randomOf } from "../fixtures/fuzz.ts";
import { clientFrame, type FrameSpec } from "../fixtures/websocket.ts";

type Heard =
  | { message: string; text: boolean; pieces: number }
  | { ping: string }
  | { close: number | undefined };

/** What a parser makes of `bytes`, fed by `step` bytes; an error is the last that is heard. */
function hear(bytes: Buffer, step = bytes.length): Array<Heard | { error: number }> {
  const heard: Array<Heard | { error: number }> = [];
  let parts: Buffer[] = [];
  const parser = new FrameParser({
    message: ({ bytes: piece, text, first, last }) => {
      expect(first).toBe(parts.length === 0);
      parts.push(Buffer.from(piece));
      if (!last) return;
      heard.push({ message: Buffer.concat(parts).toString("latin1"), text, pieces: parts.length });
      parts = [];
    },
    ping: (payload) => heard.push({ ping: payload.toString("latin1") }),
    close: (code) => heard.push({ close: code }),
  });
  try {
    for (let at = 0; at < bytes.length; at += step) {
      parser.push(Buffer.from(bytes.subarray(at, at + step)));
    }
  } catch (error) {
    if (!(error instanceof WebSocketError)) throw error;
    heard.push({ error: error.code });
  }
  return heard;
}

const of = (...specs: FrameSpec[]) => Buffer.concat(specs.map(clientFrame));
const message = (text: string, isText = false, pieces = 1) => ({
  message: text,
  text: isText,
  pieces,
});

describe("examples of RFC 6455, section 5.7", () => {
  test("a masked text message", () => {
    const bytes = Buffer.from("818537fa213d7f9f4d5158", "hex");
    expect(hear(bytes)).toEqual([message("Hello", true)]);
  });

  test("a masked pong tells nothing", () => {
    expect(hear(Buffer.from("8a8537fa213d7f9f4d5158", "hex"))).toEqual([]);
  });

  test("what a server sends", () => {
    expect(frame("text", Buffer.from("Hello")).toString("hex")).toBe("810548656c6c6f");
    expect(frame("ping", Buffer.from("Hello")).toString("hex")).toBe("890548656c6c6f");
    expect(frameHeader("binary", 256).toString("hex")).toBe("827e0100");
    expect(frameHeader("binary", 65_536).toString("hex")).toBe("827f0000000000010000");
  });
});

test("a message in fragments comes piece by piece, control frames between them", () => {
  const bytes = of(
    { opcode: "text", payload: "Hel", fin: false },
    { opcode: "ping", payload: "are you there" },
    { opcode: "continuation", payload: "", fin: false },
    { opcode: "continuation", payload: "lo" },
    { opcode: "binary", payload: "" },
  );
  expect(hear(bytes)).toEqual([{ ping: "are you there" }, message("Hello", true, 2), message("")]);
});

test("frames may be cut anywhere", () => {
  const bytes = of(
    { opcode: "binary", payload: "x".repeat(300) },
    { opcode: "ping", payload: "p".repeat(125) },
    { opcode: "binary", payload: "y".repeat(70_000) },
    { opcode: "close", payload: "\x03\xe8" },
  );
  for (const step of [1, 2, 3, 5, 7, 64, 1_000]) {
    const whole = hear(bytes, step).map((it) => ("message" in it ? it.message.length : it));
    expect(whole).toEqual([300, { ping: "p".repeat(125) }, 70_000, { close: 1000 }]);
  }
});

test("lengths at the borders of their forms", () => {
  for (const length of [0, 1, 125, 126, 127, 65_535, 65_536]) {
    const [heard] = hear(of({ opcode: "binary", payload: "z".repeat(length) }));
    expect(heard).toEqual(message("z".repeat(length)));
    expect(frame("binary", Buffer.alloc(length)).length).toBe(
      length + (length < 126 ? 2 : length < 65_536 ? 4 : 10),
    );
  }
});

test("nothing is read after a close frame", () => {
  const bytes = of({ opcode: "close", payload: "" }, { opcode: "binary", payload: "more" });
  expect(hear(Buffer.concat([bytes, Buffer.from("rubbish")]))).toEqual([{ close: undefined }]);
});

const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");
test.each<[string, Buffer, CloseCode]>([
  ["a frame without a mask", frame("binary", Buffer.from("x")), CloseCode.protocolError],
  ["a reserved bit", hex("c2 80 00000000"), CloseCode.protocolError],
  ["a second reserved bit", hex("a2 80 00000000"), CloseCode.protocolError],
  ["a third reserved bit", hex("92 80 00000000"), CloseCode.protocolError],
  ["an unknown type of data frame", hex("83 80 00000000"), CloseCode.protocolError],
  ["an unknown type of control frame", hex("8b 80 00000000"), CloseCode.protocolError],
  ["a control frame in fragments", hex("09 80 00000000"), CloseCode.protocolError],
  ["a control frame of 126 bytes", hex("89 fe 007e 00000000"), CloseCode.protocolError],
  [
    "a continuation of nothing",
    of({ opcode: "continuation", payload: "x" }),
    CloseCode.protocolError,
  ],
  [
    "a message within a message",
    of({ opcode: "text", payload: "", fin: false }, { opcode: "binary", payload: "x" }),
    CloseCode.protocolError,
  ],
  ["a short length in two bytes", hex("82 fe 007d 00000000"), CloseCode.protocolError],
  ["a short length in eight bytes", hex("82 ff 000000000000ffff 0000"), CloseCode.protocolError],
  ["a negative length", hex("82 ff 8000000000000000"), CloseCode.protocolError],
  ["a length near 2^63", hex("82 ff 7fffffffffffffff"), CloseCode.messageTooBig],
  ["a close frame of one byte", of({ opcode: "close", payload: "\x03" }), CloseCode.protocolError],
  [
    "a text message that is not UTF-8",
    of({ opcode: "text", payload: "a\xff" }),
    CloseCode.invalidPayload,
  ],
  [
    "a text message that ends within a character",
    of(
      { opcode: "text", payload: "\xe2", fin: false },
      { opcode: "continuation", payload: "\x82" },
    ),
    CloseCode.invalidPayload,
  ],
  [
    "a close reason that is not UTF-8",
    of({ opcode: "close", payload: "\x03\xe8\xff" }),
    CloseCode.invalidPayload,
  ],
])("%s is refused, whole or byte by byte", (_what, bytes, code) => {
  for (const step of [bytes.length, 1]) expect(hear(bytes, step).at(-1)).toEqual({ error: code });
});

test("a frame's length is limited, a message's is not", () => {
  const head = (length: number) => {
    const bytes = Buffer.from("82ff0000000000000000", "hex");
    bytes.writeBigUInt64BE(BigInt(length), 2);
    return Buffer.concat([bytes, Buffer.alloc(4)]);
  };
  expect(hear(head(FRAME_LIMIT_BYTES))).toEqual([]);
  expect(hear(head(FRAME_LIMIT_BYTES + 1))).toEqual([{ error: CloseCode.messageTooBig }]);
});

test("a character of a text message may be cut by a fragment", () => {
  const bytes = of(
    { opcode: "text", payload: "\xe2", fin: false },
    { opcode: "continuation", payload: "\x82\xac" },
  );
  expect(hear(bytes)).toEqual([message("\xe2\x82\xac", true, 2)]);
});

test("close codes that may not be sent are refused", () => {
  const answer = (code: number) => {
    const payload = String.fromCharCode(code >>> 8, code & 255);
    return hear(of({ opcode: "close", payload })).at(-1);
  };
  for (const code of [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1014, 3000, 4999]) {
    expect(answer(code)).toEqual({ close: code });
  }
  for (const code of [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535]) {
    expect(answer(code)).toEqual({ error: CloseCode.protocolError });
  }
});

test("a close frame's reason is cut where it no longer fits, at a character", () => {
  expect(closeFrame(1000).toString("hex")).toBe("880203e8");
  const long = closeFrame(1011, "é".repeat(100));
  expect(long.length).toBe(2 + 2 + 122);
  expect(isUtf8(long.subarray(4))).toBe(true);
});

test("random frames are heard as they were sent, however they are cut", () => {
  const end = performance.now() + FUZZ_MS;
  for (let seed = 1; performance.now() < end; seed += 1) {
    const random = randomOf(seed);
    const sent: Heard[] = [];
    const specs: FrameSpec[] = [];
    for (let count = random(6); count >= 0; count -= 1) {
      const text = Array.from({ length: random(2) * 400 + random(4) }, () =>
        String.fromCharCode(random(128)),
      ).join("");
      const fragments = random(3);
      const isText = random(2) === 0;
      let rest = text;
      for (let index = 0; index < fragments; index += 1) {
        const cut = random(rest.length + 1);
        const opcode = index === 0 ? (isText ? "text" : "binary") : "continuation";
        specs.push({ opcode, payload: rest.slice(0, cut), fin: false, mask: random(2 ** 32) });
        rest = rest.slice(cut);
        if (random(2) === 0) {
          specs.push({ opcode: "ping", payload: "ping", mask: random(2 ** 32) });
          sent.push({ ping: "ping" });
        }
      }
      const opcode = fragments > 0 ? "continuation" : isText ? "text" : "binary";
      specs.push({ opcode, payload: rest, mask: random(2 ** 32) });
      sent.push({ message: text, text: isText, pieces: 0 });
    }
    const heard = hear(of(...specs), 1 + random(random(2) === 0 ? 7 : 900));
    expect(heard.map((it) => ("pieces" in it ? { ...it, pieces: 0 } : it))).toEqual(sent);
  }
});

test("random bytes are refused or heard, and cost no more than they are", () => {
  const end = performance.now() + FUZZ_MS;
  const opcodes = Object.values(Opcode);
  for (let seed = 1; performance.now() < end; seed += 1) {
    const random = randomOf(seed);
    const bytes = Buffer.from(Array.from({ length: random(200) }, () => random(256)));
    // Mostly something that looks like a frame, else the first byte would end it.
    if (random(4) > 0 && bytes.length > 2) {
      bytes[0] = (random(2) * 0x80) | (opcodes[random(opcodes.length)] ?? 0);
      bytes[1] = 0x80 | random(128);
    }
    const heard = hear(bytes, 1 + random(20));
    const total = heard.reduce((sum, it) => sum + ("message" in it ? it.message.length : 0), 0);
    expect(total).toBeLessThanOrEqual(bytes.length);
    expect(hear(bytes)).toEqual(
      heard.map((it) => ("pieces" in it ? { ...it, pieces: expect.any(Number) } : it)),
    );
  }
});
