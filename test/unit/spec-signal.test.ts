import { expect, test } from "bun:test";
import { stopSignal } from "../../src/container/spec/signal.ts";
import { Signal } from "../../src/gen/runtime/v1/container_config_pb.ts";

const { RUNTIME_DEFAULT } = Signal;

test.each<[string, Signal, string | undefined, number, string, Signal]>([
  ["nobody says", RUNTIME_DEFAULT, undefined, 15, "SIGTERM", Signal.SIGTERM],
  ["the image says its name", RUNTIME_DEFAULT, "SIGQUIT", 3, "SIGQUIT", Signal.SIGQUIT],
  ["the image says a short name", RUNTIME_DEFAULT, "usr1", 10, "SIGUSR1", Signal.SIGUSR1],
  ["the image says a number", RUNTIME_DEFAULT, "2", 2, "SIGINT", Signal.SIGINT],
  ["the image says an alias", RUNTIME_DEFAULT, "SIGIOT", 6, "SIGABRT", Signal.SIGABRT],
  [
    "the image says systemd's",
    RUNTIME_DEFAULT,
    "SIGRTMIN+3",
    37,
    "SIGRTMIN+3",
    Signal.SIGRTMINPLUS3,
  ],
  ["the image counts down", RUNTIME_DEFAULT, "RTMAX-1", 63, "SIGRTMAX-1", Signal.SIGRTMAXMINUS1],
  [
    "the image counts past the middle",
    RUNTIME_DEFAULT,
    "SIGRTMIN+16",
    50,
    "SIGRTMAX-14",
    Signal.SIGRTMAXMINUS14,
  ],
  ["the image says a real-time number", RUNTIME_DEFAULT, "34", 34, "SIGRTMIN", Signal.SIGRTMIN],
  ["the request says, over the image", Signal.SIGUSR2, "SIGQUIT", 12, "SIGUSR2", Signal.SIGUSR2],
  [
    "the request says a real-time one",
    Signal.SIGRTMAXMINUS14,
    "",
    50,
    "SIGRTMAX-14",
    Signal.SIGRTMAXMINUS14,
  ],
])("%s", (_, requested, image, number, name, signal) => {
  expect(stopSignal(requested, image)).toEqual({ number, name, signal });
});

test("all signals of the contract have a number, and lead back to themselves", () => {
  const aliases = new Set([Signal.SIGCLD, Signal.SIGIOT, Signal.SIGPOLL]);
  const signals = Object.values(Signal).filter((value) => typeof value === "number");
  expect(signals).toHaveLength(66);
  for (const requested of signals) {
    if (requested === RUNTIME_DEFAULT) continue;
    const stop = stopSignal(requested, null);
    expect(stop.number).toBeWithin(1, 65);
    expect(stop.signal).toBe(requested);
    if (aliases.has(requested)) continue;
    expect(stopSignal(RUNTIME_DEFAULT, String(stop.number)).signal).toBe(requested);
  }
});

test.each(["SIGNOTHING", "0", "32", "33", "65", "SIGRTMIN+31", "SIGRTMAX+1", "-9"])(
  "%s of an image is refused",
  (text) => {
    expect(() => stopSignal(RUNTIME_DEFAULT, text)).toThrow(`image StopSignal: "${text}"`);
  },
);

test("an unknown number of the contract is refused", () => {
  expect(() => stopSignal(99 as Signal)).toThrow("stop_signal: 99");
});
