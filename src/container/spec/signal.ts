import { Signal } from "../../gen/runtime/v1/container_config_pb.ts";
import { invalid } from "./refuse.ts";

/** A signal as kill(2) takes it, as humans say it, and as ContainerStatus reports it. */
export interface StopSignal {
  number: number;
  name: string;
  signal: Signal;
}

/** Linux numbers, the same on x86-64 and aarch64 (signal(7)). Aliases follow the usual name. */
const NUMBERS: Readonly<Record<string, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGILL: 4,
  SIGTRAP: 5,
  SIGABRT: 6,
  SIGIOT: 6,
  SIGBUS: 7,
  SIGFPE: 8,
  SIGKILL: 9,
  SIGUSR1: 10,
  SIGSEGV: 11,
  SIGUSR2: 12,
  SIGPIPE: 13,
  SIGALRM: 14,
  SIGTERM: 15,
  SIGSTKFLT: 16,
  SIGCHLD: 17,
  SIGCLD: 17,
  SIGCONT: 18,
  SIGSTOP: 19,
  SIGTSTP: 20,
  SIGTTIN: 21,
  SIGTTOU: 22,
  SIGURG: 23,
  SIGXCPU: 24,
  SIGXFSZ: 25,
  SIGVTALRM: 26,
  SIGPROF: 27,
  SIGWINCH: 28,
  SIGIO: 29,
  SIGPOLL: 29,
  SIGPWR: 30,
  SIGSYS: 31,
};
/** glibc keeps 32 and 33 for itself. */
const RTMIN = 34;
const RTMAX = 64;

/**
 * The signal that stops a container: the request's, else the image's, else SIGTERM (KEP-4960).
 * The image may say "SIGUSR1", "usr1", "10" or "SIGRTMIN+3".
 */
export function stopSignal(requested: Signal, imageStopSignal?: string | null): StopSignal {
  if (requested !== Signal.RUNTIME_DEFAULT) {
    const key: string | undefined = Signal[requested];
    const name = key?.replace("PLUS", "+").replace("MINUS", "-");
    const number = name === undefined ? undefined : numberOf(name);
    if (name === undefined || number === undefined) {
      throw invalid("stop_signal", requested, "is not a signal");
    }
    return { number, name, signal: requested };
  }
  const text = imageStopSignal?.trim() ?? "";
  if (text === "") return { number: 15, name: "SIGTERM", signal: Signal.SIGTERM };
  const number = numberOf(text);
  if (number === undefined) throw invalid("image StopSignal", text, "is not a signal");
  return fromNumber(number);
}

function numberOf(text: string): number | undefined {
  const upper = text.toUpperCase();
  if (/^\d+$/.test(upper)) {
    const number = Number(upper);
    const real = number >= RTMIN && number <= RTMAX;
    return real || (number >= 1 && number <= 31) ? number : undefined;
  }
  const name = upper.startsWith("SIG") ? upper : `SIG${upper}`;
  const realTime = /^SIGRT(MIN|MAX)(?:([+-])(\d+))?$/.exec(name);
  if (realTime === null) return NUMBERS[name];
  const [, base, sign, offset = "0"] = realTime;
  const number =
    (base === "MIN" ? RTMIN : RTMAX) + (sign === "-" ? -Number(offset) : Number(offset));
  return number >= RTMIN && number <= RTMAX ? number : undefined;
}

function fromNumber(number: number): StopSignal {
  const name =
    Object.keys(NUMBERS).find((key) => NUMBERS[key] === number) ??
    (number <= RTMIN + 15
      ? `SIGRTMIN${number === RTMIN ? "" : `+${number - RTMIN}`}`
      : `SIGRTMAX${number === RTMAX ? "" : `-${RTMAX - number}`}`);
  const key = `${name.replace("+", "PLUS").replace("-", "MINUS")}`;
  const signal: unknown = Signal[key as keyof typeof Signal];
  if (typeof signal !== "number") throw invalid("stop signal", name, "is not in the CRI contract");
  return { number, name, signal };
}
